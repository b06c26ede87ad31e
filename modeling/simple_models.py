"""Models that a shop would use instead of a language model: boosted trees and logistic regression on numeric columns.

Both read columns float32 (N, F), NaN where a value is unknown; a category is the index of its text. Both are kept as
text: LightGBM's own format, and JSON. Neither reads a row's label when it scores that row out of fold.
"""

import importlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.common.errors import UserError

if TYPE_CHECKING:
    from lightgbm import Booster

MOST_TREES = 800
TUNING_ROWS = 100_000
"""Training rows on which settings are tried; the chosen one is fitted on all."""
PATIENCE = 40
FOLDS = 5
MOST_CATEGORIES = 64
"""Texts of a category that a linear model tells apart, the first ones, which the train split shows most often."""
TREE_SETTINGS: tuple[dict[str, Any], ...] = (
    {"num_leaves": 31, "learning_rate": 0.05, "min_child_samples": 100},
    {"num_leaves": 15, "learning_rate": 0.05, "min_child_samples": 50, "lambda_l2": 5.0},
    {"num_leaves": 63, "learning_rate": 0.03, "min_child_samples": 200, "feature_fraction": 0.7},
    {
        "num_leaves": 7,
        "learning_rate": 0.08,
        "min_child_samples": 200,
        "lambda_l2": 20.0,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
    },
)
"""What is tried on the validation rows; the first is the default without them, the last is for rare labels."""
DEFAULT_TREES = 300
INVERSE_PENALTIES = (0.01, 0.1, 1.0)
TRIED = (TREE_SETTINGS, DEFAULT_TREES, MOST_TREES, PATIENCE, TUNING_ROWS, INVERSE_PENALTIES, MOST_CATEGORIES)
"""What decides a fitted model beside its rows."""
Rows = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class LinearModel:
    """Logistic regression on signed log1p'd, standardised numbers, whether they are unknown, and categories.

    Attributes:
        categories: positions of the category columns.
        mean, std: of each number's sign(v) log(1 + |v|), by the order of the numbers.
        missing: positions among all columns of the numbers that were sometimes unknown.
        texts: categories told apart, by the order of `categories`.
        weights: of numbers, `missing`, then of each category's texts.
        intercept: log-odds where everything is 0.
        inverse_penalty: C of the L2 penalty that was chosen.
        interactions: pairs of columns by position, a number the first, whose products follow in `weights`.
        logs: positions of the numbers that are read as log v instead, unknown where that is none.
    """

    categories: list[int]
    mean: list[float]
    std: list[float]
    missing: list[int]
    texts: list[int]
    weights: list[float]
    intercept: float
    inverse_penalty: float
    interactions: list[list[int]] = field(default_factory=list)
    logs: list[int] = field(default_factory=list)

    def design(self, columns: np.ndarray) -> Any:
        """The regressors of columns float32 (N, F): a SciPy CSR array float64 (N, R)."""
        from scipy import sparse

        numbers = [column for column in range(columns.shape[1]) if column not in self.categories]
        scaled = (_scaled(columns, numbers, self.logs) - np.array(self.mean)) / np.array(self.std)
        scaled = np.nan_to_num(scaled, posinf=0, neginf=0)
        unknown = ~np.isfinite(columns[:, self.missing])
        parts = [sparse.csr_array(np.hstack([scaled, unknown]))]
        by_text = {}
        for position, texts in zip(self.categories, self.texts, strict=True):
            codes = columns[:, position]
            rows = np.flatnonzero((codes >= 0) & (codes < texts))
            cells = (rows, codes[rows].astype(np.int64))
            by_text[position] = sparse.csr_array((np.ones(len(rows)), cells), shape=(len(columns), texts))
        parts += by_text.values()
        for number, other in self.interactions:
            own = scaled[:, [numbers.index(number)]]
            partner = by_text[other] if other in by_text else sparse.csr_array(scaled[:, [numbers.index(other)]])
            parts.append(sparse.csr_array(partner.multiply(own)))
        return sparse.csr_array(sparse.hstack(parts))

    def sources(self, columns: int) -> list[tuple[int, ...]]:
        """Of each regressor the columns that it is made of, by position; `columns`: how many there are."""
        numbers = [column for column in range(columns) if column not in self.categories]
        made: list[tuple[int, ...]] = [(column,) for column in (*numbers, *self.missing)]
        texts = dict(zip(self.categories, self.texts, strict=True))
        for position, count in texts.items():
            made += [(position,)] * count
        for number, other in self.interactions:
            made += [(number, other)] * texts.get(other, 1)
        return made


def fit_trees(
    columns: np.ndarray,
    label: np.ndarray,
    *,
    categories: Sequence[int] = (),
    groups: np.ndarray | None = None,
    valid: Rows | None = None,
    seed: int = 0,
) -> "Booster":
    """Boosted trees, tuned a little where there are rows to tune on.

    Args:
        columns: float32 (N, F), NaN where unknown.
        label: 0 or 1, (N,).
        categories: positions of category columns.
        groups: a number or name of each row's user, (N,); without `valid` a tenth of the users is tuned on.
        valid: columns and labels to tune on: the setting and number of trees of the lowest log loss are taken.
        seed: of draws.

    Raises:
        UserError: LightGBM is not installed, there is no column, or one class only.
    """
    columns, label = _checked(columns, label)
    if valid is None and groups is not None:
        valid, kept = _held_out(columns, label, groups, seed)
        chosen = fit_trees(columns[kept], label[kept], categories=categories, valid=valid, seed=seed)
        return _refit_trees(chosen, columns, label)
    base = {"objective": "binary", "verbosity": -1, "seed": seed, "deterministic": True, "force_col_wise": True}
    base["categorical_column"] = list(categories)
    if valid is None or not _two_classes(valid[1]):
        return _boost(base | TREE_SETTINGS[0], DEFAULT_TREES, columns, label)
    few = _sampled(columns, label, seed)
    tried = [_boost(base | setting, MOST_TREES, *few, valid) for setting in TREE_SETTINGS]
    best = int(np.argmin([cross_entropy(valid[1], log_odds(model, valid[0])) for model in tried]))
    if len(few[1]) == len(label):
        return tried[best]
    return _boost(base | TREE_SETTINGS[best], MOST_TREES, columns, label, valid)


def fit_linear(
    columns: np.ndarray,
    label: np.ndarray,
    *,
    categories: Sequence[int] = (),
    valid: Rows | None = None,
    seed: int = 0,
    interactions: Sequence[tuple[int, int]] = (),
    logs: Sequence[int] = (),
    max_categories: int = MOST_CATEGORIES,
) -> LinearModel:
    """Logistic regression with an L2 penalty, of the strength that suits the validation rows; see `fit_trees`.

    Args:
        columns, label, categories, valid, seed: as of `fit_trees`.
        interactions: pairs of positions whose products are regressors too, a number the first of each.
        logs: positions of numbers that are read as their logarithm.
        max_categories: texts of a category that are told apart.
    """
    columns, label = _checked(columns, label)
    pairs = [list(pair) for pair in interactions]
    scales = _scales(columns, sorted(categories), pairs, sorted(logs), max_categories)
    if valid is None or not _two_classes(valid[1]):
        return _regress(scales, columns, label, INVERSE_PENALTIES[-1], seed)
    few = _sampled(columns, label, seed)
    tried = [_regress(scales, *few, penalty, seed) for penalty in INVERSE_PENALTIES]
    best = int(np.argmin([cross_entropy(valid[1], log_odds(model, valid[0])) for model in tried]))
    if len(few[1]) == len(label):
        return tried[best]
    return _regress(scales, columns, label, INVERSE_PENALTIES[best], seed)


def log_odds(model: "Booster | LinearModel", columns: np.ndarray) -> np.ndarray:
    """Log-odds of rows, float64 (N,), of columns float32 (N, F) in the order that the model was fitted on."""
    columns = np.asarray(columns, np.float32)
    if not len(columns):
        return np.empty(0)
    if isinstance(model, LinearModel):
        return model.design(columns) @ np.array(model.weights) + model.intercept
    return np.asarray(model.predict(columns, raw_score=True), np.float64)


def out_of_fold(
    model: "Booster | LinearModel",
    columns: np.ndarray,
    label: np.ndarray,
    groups: np.ndarray,
    *,
    folds: int = FOLDS,
    seed: int = 0,
    shown_as: Sequence[np.ndarray] = (),
) -> list[np.ndarray]:
    """Log-odds of the training rows, float64 (N,), each by a model of the same settings that saw no row of its user.

    The first array is of the columns themselves, further ones of the same rows as `shown_as` tells them.

    Args:
        model: fitted on all rows, for its settings; none of its weights or leaves is used.
        columns, label: what it was fitted on.
        groups: a number or name of each row's user, (N,).
        folds: models fitted, at most the number of users.
        seed: of draws, that of which user is in which fold among them.
        shown_as: the same rows with other columns, such as those of a shopper of whom nothing is known.

    Raises:
        UserError: fewer than two users, or the rows outside of a fold have one class only.
    """
    columns, label = _checked(columns, label)
    codes = np.unique(groups, return_inverse=True)[1]
    users = int(codes.max()) + 1
    if users < 2:
        raise UserError("out-of-fold predictions need at least two users in the train split: prepare more data")
    fold = (np.random.default_rng(seed).permutation(users) % min(folds, users))[codes]
    tables = [columns, *(np.asarray(table, np.float32) for table in shown_as)]
    predictions = [np.empty(len(label)) for _ in tables]
    for number in range(int(fold.max()) + 1):
        inside = fold == number
        refitted = _refit(model, columns[~inside], label[~inside], seed)
        for values, table in zip(predictions, tables, strict=True):
            values[inside] = log_odds(refitted, table[inside])
    return predictions


def to_text(model: "Booster | LinearModel") -> str:
    """The model as text, which `from_text` reads."""
    return json.dumps(asdict(model), indent=1) if isinstance(model, LinearModel) else model.model_to_string()


def from_text(text: str) -> "Booster | LinearModel":
    """The model that `to_text` wrote.

    Raises:
        UserError: the text is of no such model, or LightGBM is not installed.
    """
    if text.lstrip().startswith("{"):
        try:
            return LinearModel(**json.loads(text))
        except (TypeError, ValueError) as error:
            raise UserError("the text of a linear model is broken: fit it again") from error
    library = _lightgbm()
    try:
        return library.Booster(model_str=text)
    except library.basic.LightGBMError as error:
        raise UserError(f"LightGBM cannot read the text of trees ({error}): fit them again") from error


def cross_entropy(label: np.ndarray, logit: np.ndarray) -> float:
    """Mean log loss of log-odds (N,) in nats."""
    return float(np.mean(np.logaddexp(0.0, logit) - label * logit))


def _lightgbm() -> Any:
    try:
        return importlib.import_module("lightgbm")
    except ImportError as error:
        raise UserError("boosted trees need LightGBM: pip install -c constraints.txt 'equipoise[trees]'") from error


def _checked(columns: np.ndarray, label: np.ndarray) -> Rows:
    columns, label = np.asarray(columns, np.float32), np.asarray(label, np.float64)
    if columns.ndim != 2 or not columns.shape[1]:
        raise UserError("trees and linear models need at least one column: name some in data.features")
    if not _two_classes(label):
        raise UserError("trees and linear models need rows of both labels: prepare more data")
    return columns, label


def _two_classes(label: np.ndarray) -> bool:
    return len(label) > 0 and bool(np.min(label) != np.max(label))


def _held_out(columns: np.ndarray, label: np.ndarray, groups: np.ndarray, seed: int) -> tuple[Rows, np.ndarray]:
    """Columns and labels of a tenth of the users, and which rows are of the others, bool (N,)."""
    names, codes = np.unique(groups, return_inverse=True)
    chosen = np.random.default_rng(seed).permutation(len(names)) < len(names) / 10
    inside = chosen[codes]
    return (columns[inside], label[inside]), ~inside


def _sampled(columns: np.ndarray, label: np.ndarray, seed: int) -> Rows:
    """The rows on which settings are tried: all, or `TUNING_ROWS` of more, of both labels."""
    if len(label) <= TUNING_ROWS:
        return columns, label
    rows = np.sort(np.random.default_rng(seed).choice(len(label), TUNING_ROWS, replace=False))
    return (columns[rows], label[rows]) if _two_classes(label[rows]) else (columns, label)


def _boost(
    parameters: dict[str, Any], trees: int, columns: np.ndarray, label: np.ndarray, valid: Rows | None = None
) -> "Booster":
    library = _lightgbm()
    # Leaves of a hundred rows leave small data no split; at least fifty leaves must be possible.
    smallest = min(parameters["min_child_samples"], max(1, len(label) // 50))
    parameters = parameters | {"min_child_samples": smallest}
    kept = {key: value for key, value in parameters.items() if key != "categorical_column"}
    categories = parameters["categorical_column"]
    data = library.Dataset(columns, label, categorical_feature=categories, params=kept, free_raw_data=True)
    if valid is None:
        booster = library.train(kept, data, trees)
    else:
        tuned = library.Dataset(np.asarray(valid[0], np.float32), valid[1], reference=data)
        stop = library.early_stopping(PATIENCE, verbose=False)
        booster = library.train(kept, data, trees, valid_sets=[tuned], callbacks=[stop])
        booster = library.Booster(model_str=booster.model_to_string(num_iteration=booster.best_iteration))
    booster.fitted_as = (parameters, booster.num_trees())
    return booster


def _refit_trees(model: "Booster", columns: np.ndarray, label: np.ndarray) -> "Booster":
    parameters, trees = model.fitted_as  # type: ignore[attr-defined]
    return _boost(parameters, max(trees, 1), columns, label)


def _refit(model: "Booster | LinearModel", columns: np.ndarray, label: np.ndarray, seed: int) -> Any:
    """A model of the same settings on other rows."""
    columns, label = _checked(columns, label)
    if isinstance(model, LinearModel):
        most = max(model.texts, default=1)
        scales = _scales(columns, model.categories, model.interactions, model.logs, most)
        return _regress(scales, columns, label, model.inverse_penalty, seed)
    return _refit_trees(model, columns, label)


def _signed_log(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    return np.sign(values) * np.log1p(np.abs(values))


def _scaled(columns: np.ndarray, numbers: list[int], logs: Sequence[int]) -> np.ndarray:
    """Numbers on the scale on which they are standardised, float64 (N, numbers)."""
    scaled = _signed_log(columns[:, numbers])
    for position in logs:
        values = np.asarray(columns[:, position], np.float64)
        positive = np.where(values > 0, values, np.nan)
        scaled[:, numbers.index(position)] = np.log(positive)
    return scaled


def _scales(
    columns: np.ndarray, categories: list[int], interactions: list[list[int]], logs: list[int], most: int
) -> LinearModel:
    """A model that has its scales and no weights yet."""
    numbers = [column for column in range(columns.shape[1]) if column not in categories]
    values = _scaled(columns, numbers, logs)
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, values, 0).sum(axis=0) / count
    std = np.sqrt((np.where(known, values - mean, 0) ** 2).sum(axis=0) / count)
    unknown = [column for column, some in zip(numbers, (~known).any(axis=0), strict=True) if some]
    highest = [np.nanmax(columns[:, c], initial=-1.0) for c in categories]
    texts = [min(int(code) + 1, most) for code in highest]
    scale = np.where(std > 0, std, 1.0).tolist()
    return LinearModel(categories, mean.tolist(), scale, unknown, texts, [], 0.0, 1.0, interactions, logs)


def _regress(scales: LinearModel, columns: np.ndarray, label: np.ndarray, penalty: float, seed: int) -> LinearModel:
    from sklearn.linear_model import LogisticRegression  # takes a second to import

    fitted = LogisticRegression(C=penalty, max_iter=500, random_state=seed).fit(scales.design(columns), label)
    weights, intercept = fitted.coef_[0].tolist(), float(fitted.intercept_[0])
    return LinearModel(**asdict(scales) | {"weights": weights, "intercept": intercept, "inverse_penalty": penalty})

"""Models that a shop would use instead of a language model: boosted trees, logistic regression, and a blend of them.

All read columns float32 (N, F), NaN where a value is unknown; a category is the index of its text. All are kept as
text: LightGBM's own format, and JSON. None reads a row's label when it scores that row out of fold.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.common.errors import UserError
from equipoise.modeling.boosted_trees import (
    DEFAULT_TREES,
    MOST_TREES,
    PATIENCE,
    TREE_SETTINGS,
    boost,
    read_trees,
    refit_trees,
)
from equipoise.modeling.linear_model import MOST_CATEGORIES, LinearModel, Weighed, regress, unfitted

if TYPE_CHECKING:
    from lightgbm import Booster

TUNING_ROWS = 100_000
"""Training rows on which settings are tried; the chosen one is fitted on all."""
FOLDS = 5
INVERSE_PENALTIES = (0.01, 0.1, 1.0)
TRIED = (TREE_SETTINGS, DEFAULT_TREES, MOST_TREES, PATIENCE, TUNING_ROWS, INVERSE_PENALTIES, MOST_CATEGORIES)
"""What decides a fitted model beside its rows."""
WHOLE = 0.3
"""Of the trees' log-odds in a blend: what the trees of all rows have, those of the folds, which saw fewer, the rest."""
SHARES = np.linspace(0, 1, 21)
"""Of the linear model in a blend: what is tried."""
Rows = tuple[np.ndarray, np.ndarray]
"""Columns and labels."""


@dataclass(frozen=True)
class Blend:
    """Log-odds of boosted trees and of a logistic regression, averaged.

    Attributes:
        trees: fitted on all rows, then of each fold those that saw no row of its users.
        weights: how much each of them has of the trees' part; they add up to 1.
        linear: fitted on all rows.
        share: of the linear model, 0 to 1.
    """

    trees: "tuple[Booster, ...]"
    weights: tuple[float, ...]
    linear: LinearModel
    share: float

    def mean(self, trees: Sequence[Any], linear: Any) -> Any:
        """What trees and the linear model say, numbers or arrays of one shape, averaged by their weights."""
        return mixed(self.share, np.average(trees, axis=0, weights=self.weights), linear)


def fit_trees(
    columns: np.ndarray,
    label: np.ndarray,
    *,
    categories: Sequence[int] = (),
    groups: np.ndarray | None = None,
    valid: Rows | None = None,
    seed: int = 0,
    weight: np.ndarray | None = None,
    valid_weight: np.ndarray | None = None,
) -> "Booster":
    """Boosted trees, tuned a little where there are rows to tune on.

    Args:
        columns: float32 (N, F), NaN where unknown.
        label: 0 or 1, (N,).
        categories: positions of category columns.
        groups: a number or name of each row's user, (N,); without `valid` a tenth of the users is tuned on.
        valid: rows to tune on: the setting and number of trees of the lowest log loss are taken.
        seed: of draws.
        weight, valid_weight: how much each row counts, above 0, (N,); None where all count alike.

    Raises:
        UserError: LightGBM is not installed, there is no column, or one class only.
    """
    rows = columns, label, _ = _checked(columns, label, weight)
    if valid is None and groups is not None:
        held, (*others, own) = _held_out(rows, groups, seed)
        tuned = fit_trees(*others, categories=categories, valid=held[:2], seed=seed, weight=own, valid_weight=held[2])
        return refit_trees(tuned, rows)
    base = {"objective": "binary", "verbosity": -1, "seed": seed, "deterministic": True, "force_col_wise": True}
    base["categorical_column"] = list(categories)
    if valid is None or not _two_classes(valid[1]):
        return boost(base | TREE_SETTINGS[0], DEFAULT_TREES, rows)
    few = _sampled(rows, seed)
    judged = (*valid, valid_weight)
    tried = [boost(base | setting, MOST_TREES, few, judged) for setting in TREE_SETTINGS]
    best = int(np.argmin([_loss(model, judged) for model in tried]))
    if len(few[1]) == len(label):
        return tried[best]
    return boost(base | TREE_SETTINGS[best], MOST_TREES, rows, judged)


def fit_linear(
    columns: np.ndarray,
    label: np.ndarray,
    *,
    categories: Sequence[int] = (),
    valid: Rows | None = None,
    seed: int = 0,
    weight: np.ndarray | None = None,
    valid_weight: np.ndarray | None = None,
    interactions: Sequence[tuple[int, int]] = (),
    logs: Sequence[int] = (),
    logits: Sequence[int] = (),
    max_categories: int = MOST_CATEGORIES,
) -> LinearModel:
    """Logistic regression with an L2 penalty, of the strength that suits the validation rows; see `fit_trees`.

    Args:
        columns, label, categories, valid, seed, weight, valid_weight: as of `fit_trees`.
        interactions: pairs of positions whose products are regressors too, a number the first of each.
        logs: positions of numbers that are read as their logarithm.
        logits: positions of numbers between 0 and 1, such as rates, that are read as their log-odds.
        max_categories: texts of a category that are told apart.
    """
    rows = _checked(columns, label, weight)
    pairs = [list(pair) for pair in interactions]
    scales = unfitted(rows, sorted(categories), pairs, (sorted(logs), sorted(logits)), max_categories)
    if valid is None or not _two_classes(valid[1]):
        return regress(scales, rows, INVERSE_PENALTIES[-1], seed)
    few = _sampled(rows, seed)
    tried = [regress(scales, few, penalty, seed) for penalty in INVERSE_PENALTIES]
    best = int(np.argmin([_loss(model, (*valid, valid_weight)) for model in tried]))
    if len(few[1]) == len(label):
        return tried[best]
    return regress(scales, rows, INVERSE_PENALTIES[best], seed)


def log_odds(model: "Booster | LinearModel | Blend", columns: np.ndarray) -> np.ndarray:
    """Log-odds of rows, float64 (N,), of columns float32 (N, F) in the order that the model was fitted on."""
    columns = np.asarray(columns, np.float32)
    if not len(columns):
        return np.empty(0)
    if isinstance(model, LinearModel):
        return model.log_odds(columns)
    if isinstance(model, Blend):
        # What has no share is not asked: of a request's few rows a linear model costs as much as all the trees.
        linear = model.linear.log_odds(columns) if model.share else 0.0
        trees = [log_odds(each, columns) if model.share < 1 else np.zeros(len(columns)) for each in model.trees]
        return np.asarray(model.mean(trees, linear))
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
    weight: np.ndarray | None = None,
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
        weight: how much each row counts, (N,); None where all count alike.

    Raises:
        UserError: fewer than two users, or the rows outside of a fold have one class only.
    """
    return _by_fold([model], _checked(columns, label, weight), groups, folds, seed, shown_as)[0][0]


def fit_blend(
    trees: "Booster",
    linear: LinearModel,
    columns: np.ndarray,
    label: np.ndarray,
    groups: np.ndarray,
    *,
    folds: int = FOLDS,
    seed: int = 0,
    shown_as: Sequence[np.ndarray] = (),
    weight: np.ndarray | None = None,
) -> tuple[Blend, list[np.ndarray]]:
    """Trees and a linear model together, and the log-odds of the training rows out of fold.

    The trees of the folds, which such predictions need anyway, are kept: a mean varies less than one of them
    (Breiman 1996, bagging). The share is the one with the lowest log loss on the rows out of fold (Wolpert 1992,
    stacking), so that no model is judged by rows that it saw.

    Args:
        trees, linear: fitted on all rows, by `fit_trees` and `fit_linear`.
        columns, label, groups, folds, seed, shown_as, weight: as of `out_of_fold`, whose second value it has.

    Raises:
        UserError: as of `out_of_fold`.
    """
    rows = _, label, weight = _checked(columns, label, weight)
    (of_trees, of_linear), refitted = _by_fold([trees, linear], rows, groups, folds, seed, shown_as)
    kept = [trees, *(of_fold for of_fold, _ in refitted)]
    weights = [WHOLE, *[(1 - WHOLE) / len(refitted)] * len(refitted)]
    losses = [cross_entropy(label, mixed(share, of_trees[0], of_linear[0]), weight) for share in SHARES]
    share = float(SHARES[int(np.argmin(losses))])
    predictions = [mixed(share, own, other) for own, other in zip(of_trees, of_linear, strict=True)]
    return Blend(tuple(kept), tuple(weights), linear, share), predictions


def mixed(share: float, trees: Any, linear: Any) -> Any:
    """What trees say, and by its share what a linear model does; numbers, or arrays of one shape."""
    return (1 - share) * trees + share * linear


def _by_fold(
    models: "Sequence[Booster | LinearModel]",
    rows: Weighed,
    groups: np.ndarray,
    folds: int,
    seed: int,
    shown_as: Sequence[np.ndarray],
) -> tuple[list[list[np.ndarray]], list[list[Any]]]:
    """Of each model its log-odds out of fold, of the rows and as they are shown; and of each fold the models for it."""
    codes = np.unique(groups, return_inverse=True)[1]
    users = int(codes.max()) + 1
    if users < 2:
        raise UserError("out-of-fold predictions need at least two users in the train split: prepare more data")
    fold = (np.random.default_rng(seed).permutation(users) % min(folds, users))[codes]
    tables = [rows[0], *(np.asarray(table, np.float32) for table in shown_as)]
    predictions = [[np.empty(len(fold)) for _ in tables] for _ in models]
    refitted = []
    for number in range(int(fold.max()) + 1):
        inside = fold == number
        outside = _some(rows, ~inside)
        refitted.append([_refit(model, outside, seed) for model in models])
        for own, found in zip(refitted[-1], predictions, strict=True):
            for values, table in zip(found, tables, strict=True):
                values[inside] = log_odds(own, table[inside])
    return predictions, refitted


def to_text(model: "Booster | LinearModel | Blend") -> str:
    """The model as text, which `from_text` reads."""
    if isinstance(model, LinearModel):
        return json.dumps(asdict(model), indent=1)
    if isinstance(model, Blend):
        trees = [each.model_to_string() for each in model.trees]
        return json.dumps(asdict(replace(model, trees=())) | {"trees": trees}, indent=1)
    return model.model_to_string()


def from_text(text: str) -> "Booster | LinearModel | Blend":
    """The model that `to_text` wrote.

    Raises:
        UserError: the text is of no such model, or LightGBM is not installed.
    """
    if text.lstrip().startswith("{"):
        try:
            read = json.loads(text)
            if "trees" not in read:
                return LinearModel(**read)
            linear, trees = LinearModel(**read["linear"]), list(map(str, read["trees"]))
            share = float(read["share"])
            if "whole" in read:  # as blends were written at first: of all rows, then the folds in equal parts
                whole, folds = float(read["whole"]), len(trees) - 1
                read["weights"] = [whole, *[(1 - whole) / folds] * folds]
            weights = tuple(map(float, read["weights"]))
            if not trees or len(weights) != len(trees):
                raise ValueError("no weight for each of the trees")
        except (TypeError, ValueError, KeyError) as error:
            raise UserError("the text of a linear model or a blend is broken: fit it again") from error
        return Blend(tuple(read_trees(each) for each in trees), weights, linear, share)
    return read_trees(text)


def cross_entropy(label: np.ndarray, logit: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Mean log loss of log-odds (N,) in nats, each row counting by its weight."""
    return float(np.average(np.logaddexp(0.0, logit) - label * logit, weights=weight))


def _loss(model: "Booster | LinearModel", rows: Weighed) -> float:
    return cross_entropy(rows[1], log_odds(model, rows[0]), rows[2])


def _some(rows: Weighed, chosen: np.ndarray) -> Weighed:
    columns, label, weight = rows
    return columns[chosen], label[chosen], None if weight is None else weight[chosen]


def _checked(columns: np.ndarray, label: np.ndarray, weight: np.ndarray | None = None) -> Weighed:
    columns, label = np.asarray(columns, np.float32), np.asarray(label, np.float64)
    if columns.ndim != 2 or not columns.shape[1]:
        raise UserError("trees and linear models need at least one column: name some in data.features")
    if not _two_classes(label):
        raise UserError("trees and linear models need rows of both labels: prepare more data")
    return columns, label, None if weight is None else np.asarray(weight, np.float64)


def _two_classes(label: np.ndarray) -> bool:
    return len(label) > 0 and bool(np.min(label) != np.max(label))


def _held_out(rows: Weighed, groups: np.ndarray, seed: int) -> tuple[Weighed, Weighed]:
    """The rows of a tenth of the users, and those of the others."""
    names, codes = np.unique(groups, return_inverse=True)
    chosen = np.random.default_rng(seed).permutation(len(names)) < len(names) / 10
    inside = chosen[codes]
    return _some(rows, inside), _some(rows, ~inside)


def _sampled(rows: Weighed, seed: int) -> Weighed:
    """The rows on which settings are tried: all, or `TUNING_ROWS` of more, of both labels."""
    count = len(rows[1])
    if count <= TUNING_ROWS:
        return rows
    few = _some(rows, np.sort(np.random.default_rng(seed).choice(count, TUNING_ROWS, replace=False)))
    return few if _two_classes(few[1]) else rows


def _refit(model: "Booster | LinearModel", rows: Weighed, seed: int) -> Any:
    """A model of the same settings on other rows."""
    rows = _checked(*rows)
    if isinstance(model, LinearModel):
        most = max(model.texts, default=1)
        scales = unfitted(rows, model.categories, model.interactions, (model.logs, model.logits), most)
        return regress(scales, rows, model.inverse_penalty, seed)
    return refit_trees(model, rows)

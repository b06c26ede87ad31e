"""Logistic regression on raw columns: its regressors, its fit, and what each of them is made of."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

MOST_CATEGORIES = 64
"""Texts of a category that a linear model tells apart, the first ones, which the train split shows most often."""
Weighed = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""Columns, labels, and how much each row counts; None where all count alike."""


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
        logits: positions of those that are read as log(v / (1 − v)), such as rates.
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
    logits: list[int] = field(default_factory=list)

    def design(self, columns: np.ndarray) -> Any:
        """The regressors of columns float32 (N, F): a SciPy CSR array float64 (N, R)."""
        from scipy import sparse

        numbers = [column for column in range(columns.shape[1]) if column not in self.categories]
        scaled = (_scaled(columns, numbers, self.logs, self.logits) - np.array(self.mean)) / np.array(self.std)
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

    def log_odds(self, columns: np.ndarray) -> np.ndarray:
        """Log-odds of columns float32 (N, F), float64 (N,)."""
        return np.asarray(self.design(columns) @ np.array(self.weights) + self.intercept)

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


def _signed_log(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    return np.sign(values) * np.log1p(np.abs(values))


def _scaled(columns: np.ndarray, numbers: list[int], logs: Sequence[int], logits: Sequence[int]) -> np.ndarray:
    """Numbers on the scale on which they are standardised, float64 (N, numbers)."""
    scaled = _signed_log(columns[:, numbers])
    for position in logs:
        values = np.asarray(columns[:, position], np.float64)
        positive = np.where(values > 0, values, np.nan)
        scaled[:, numbers.index(position)] = np.log(positive)
    for position in logits:
        values = np.asarray(columns[:, position], np.float64)
        inside = np.where((values > 0) & (values < 1), values, np.nan)
        scaled[:, numbers.index(position)] = np.log(inside) - np.log1p(-inside)
    return scaled


def unfitted(
    rows: Weighed,
    categories: list[int],
    interactions: list[list[int]],
    logs_and_logits: tuple[list[int], list[int]],
    most: int,
) -> LinearModel:
    """A model that has its scales and no weights yet."""
    columns, _, weight = rows
    numbers = [column for column in range(columns.shape[1]) if column not in categories]
    values = _scaled(columns, numbers, *logs_and_logits)
    known = np.isfinite(values)
    counted = known if weight is None else known * weight[:, None]
    count = np.maximum(counted.sum(axis=0), 1 if weight is None else np.finfo(np.float64).tiny)
    mean = (counted * np.where(known, values, 0)).sum(axis=0) / count
    std = np.sqrt((counted * np.where(known, values - mean, 0) ** 2).sum(axis=0) / count)
    unknown = [column for column, some in zip(numbers, (~known).any(axis=0), strict=True) if some]
    highest = [np.nanmax(columns[:, c], initial=-1.0) for c in categories]
    texts = [min(int(code) + 1, most) for code in highest]
    scale = np.where(std > 0, std, 1.0).tolist()
    return LinearModel(categories, mean.tolist(), scale, unknown, texts, [], 0.0, 1.0, interactions, *logs_and_logits)


def regress(scales: LinearModel, rows: Weighed, penalty: float, seed: int) -> LinearModel:
    """A model with the scales of another, and the weights that suit the rows under C = `penalty`."""
    from sklearn.linear_model import LogisticRegression  # takes a second to import

    columns, label, weight = rows
    model = LogisticRegression(C=penalty, max_iter=500, random_state=seed)
    fitted = model.fit(scales.design(columns), label, sample_weight=weight)
    weights, intercept = fitted.coef_[0].tolist(), float(fitted.intercept_[0])
    return LinearModel(**asdict(scales) | {"weights": weights, "intercept": intercept, "inverse_penalty": penalty})

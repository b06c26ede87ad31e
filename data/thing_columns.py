"""Numbers that priors read of a candidate and its shopper's history: text similarity and co-purchase of things.

Training and serving compute them with these functions. Shape suffixes: N candidates, H things of a history, T things,
D size of their vectors, P pairs of things.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError

SIMILAR = ("similar_mean", "similar_best3", "similar_max")
"""Columns of text similarity: mean, mean of the best 3, and maximum of the cosines with the history's things."""
TOGETHER = ("together_mean", "together_best5", "together_max")
"""Columns of co-purchase: mean, mean of the best 5, and maximum of the lifts with the history's things."""
RIVAL = "rival_gap"
"""Column of substitutes: log price over that of similar candidates in the slate."""
SOFTNESS = 0.02
"""Of the cosine: how far about `near` a candidate is a substitute in part."""
LEAST_VARIANCE = 1e-6
"""Axes along which vectors vary by a smaller share of the first one's variance are left out."""
SMOOTHING = 5.0
"""Shoppers by whom every thing counts as taken more often, so that rare things have small lifts."""


def pool(values_NH: np.ndarray, left_out_NH: np.ndarray, best: int) -> np.ndarray:
    """Mean, mean of the best few and maximum over each history: float32 (N, 3), NaN where all of it is left out.

    Args:
        values_NH: float, one per candidate and thing of its history.
        left_out_NH: bool, true where there is no thing, or the candidate's own.
        best: how many of the highest values the second number is the mean of; fewer where a history has fewer.
    """
    count_N = (~left_out_NH).sum(1)
    total_N = np.where(left_out_NH, 0.0, values_NH).sum(1)
    few = min(best, values_NH.shape[1])
    shown_NH = np.where(left_out_NH, -np.inf, values_NH)
    highest = np.partition(shown_NH, -few, axis=1)[:, -few:] if few else shown_NH
    best_N = np.where(np.isfinite(highest), highest, 0.0).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        pooled = [total_N / count_N, best_N / np.minimum(count_N, few), highest.max(1, initial=-np.inf)]
    return np.where((count_N > 0)[:, None], np.stack(pooled, 1), np.nan).astype(np.float32)


def left_out(history_NH: np.ndarray, candidate_N: np.ndarray) -> np.ndarray:
    """Which things of histories their candidates are not compared with, bool (N, H): padding and their own.

    Args:
        history_NH: int, (N, H) or (1, H) for all candidates; −1 is padding.
        candidate_N: int, −1 where a candidate has no thing, so that it is compared with nothing.
    """
    return (history_NH < 0) | (candidate_N < 0)[:, None] | (history_NH == candidate_N[:, None])


def similar(
    history_H: np.ndarray, candidate_N: np.ndarray, history_vectors_HD: np.ndarray, candidate_vectors_ND: np.ndarray
) -> np.ndarray:
    """The columns SIMILAR of one shopper's candidates, float32 (N, 3); NaN where there is nothing to compare with.

    Args:
        history_H, candidate_N: int, numbers of things, or any numbers that are equal for equal texts; −1 is none.
        history_vectors_HD, candidate_vectors_ND: float, the vectors of their texts, of unit length.
    """
    cosines_NH = np.asarray(candidate_vectors_ND @ history_vectors_HD.T, dtype=np.float32)
    return pool(cosines_NH, left_out(history_H[None], candidate_N), 3)


@dataclass(frozen=True)
class Rivals:
    """What decides which candidates of a slate are substitutes.

    Attributes:
        price: the feature that is compared.
        near: cosine at which a candidate counts half.
        mean_D, axes_DQ: a vector v is compared as (v − mean) · axes; None: as it is.
    """

    price: str
    near: float
    mean_D: np.ndarray | None = None
    axes_DQ: np.ndarray | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any], vectors_TD: np.ndarray) -> "Rivals":
        """By data.comparison.rivals, and the vectors of all things, float (T, D), which may be a mapped file."""
        if record["axes"] is None or not len(vectors_TD):
            return cls(record["price"], record["near"])
        mean_D, axes_QD, variance_Q = _principal(vectors_TD, record["axes"], lambda fraction: None)
        kept = variance_Q > LEAST_VARIANCE * variance_Q[0]
        axes_DQ = (axes_QD[kept] / np.sqrt(variance_Q[kept])[:, None]).T
        return cls(record["price"], record["near"], mean_D.astype(np.float32), axes_DQ.astype(np.float32))

    def weights(self, own_ND: np.ndarray, left_out_NN: np.ndarray) -> np.ndarray:
        """How far each candidate is a substitute of each other, float64 (N, N), the rows' sums at most 1.

        Args:
            own_ND: vectors of the candidates' texts.
            left_out_NN: bool, true for the candidate itself, and for what has no text or no price.
        """
        if self.axes_DQ is not None and self.mean_D is not None:
            own_ND = (own_ND - self.mean_D) @ self.axes_DQ
        own_ND = own_ND / np.maximum(np.linalg.norm(own_ND, axis=1, keepdims=True), 1e-12)
        weights_NN = np.where(left_out_NN, 0.0, expit((own_ND @ own_ND.T - self.near) / SOFTNESS))
        return weights_NN / np.maximum(weights_NN.sum(1, keepdims=True), 1.0)

    def write(self, path: Path) -> None:
        """Write as .npz, whole or not at all."""
        nothing = np.zeros((0, 0), np.float32)
        mean = nothing if self.mean_D is None else self.mean_D
        axes = nothing if self.axes_DQ is None else self.axes_DQ
        with atomic_write(path) as partial, partial.open("wb") as file:
            np.savez(file, price=np.array(self.price), near=np.array(self.near), mean=mean, axes=axes)

    @classmethod
    def read(cls, path: Path) -> "Rivals":
        """Read what `write` wrote.

        Raises:
            UserError: the file is missing or unreadable.
        """
        try:
            with np.load(path, allow_pickle=False) as held:
                arrays = (held["mean"], held["axes"]) if held["axes"].size else (None, None)
                return cls(str(held["price"]), float(held["near"]), *arrays)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path} is missing or unreadable: export again") from error


def rival_gap(weights_NM: np.ndarray, log_price_N: np.ndarray, log_price_M: np.ndarray) -> np.ndarray:
    """The column RIVAL, float32 (N,): NaN where a candidate's own price is unknown.

    Args:
        weights_NM: of `Rivals.weights`, rows of the N.
        log_price_N: of the candidates, NaN where unknown.
        log_price_M: of those that they are held against; where it is NaN the weight is 0.
    """
    others_N = weights_NM @ np.nan_to_num(log_price_M, nan=0.0)
    return np.asarray(weights_NM.sum(1) * log_price_N - others_N, np.float32)


def lift(both: np.ndarray, alone: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Cosine-like: shoppers who took both over the geometric mean of those who took either, each smoothed."""
    return both / np.sqrt((alone + SMOOTHING) * (other + SMOOTHING))


@dataclass(frozen=True)
class CoPurchase:
    """How many shoppers took things, and pairs of things, before a moment; shoppers may have decayed with time.

    Attributes:
        pairs_P: int64, low · things + high of each pair that somebody took, low < high, ascending.
        both_P: float32, shoppers who took both.
        alone_T: float32, shoppers who took each thing.
        until: the moment, ISO 8601 in UTC; "" before any.
    """

    pairs_P: np.ndarray
    both_P: np.ndarray
    alone_T: np.ndarray
    until: str = ""

    def both(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Shoppers who took both, float32 of the common shape; 0 for numbers outside the table (unknown things)."""
        things = len(self.alone_T)
        low, high = np.minimum(one, other).astype(np.int64), np.maximum(one, other)
        keys = np.where((low >= 0) & (high < things) & (low != high), low * things + high, -1)
        if not len(self.pairs_P):
            return np.zeros(keys.shape, np.float32)
        index = np.minimum(np.searchsorted(self.pairs_P, keys), len(self.pairs_P) - 1)
        return np.where(self.pairs_P[index] == keys, self.both_P[index], np.float32(0))

    def alone(self, thing: np.ndarray) -> np.ndarray:
        """Shoppers who took a thing, float32; 0 for numbers outside the table."""
        known = (thing >= 0) & (thing < len(self.alone_T))
        if not len(self.alone_T):
            return np.zeros(thing.shape, np.float32)
        return np.where(known, self.alone_T[np.where(known, thing, 0)], np.float32(0))

    def together(self, history_H: np.ndarray, candidate_N: np.ndarray) -> np.ndarray:
        """The columns TOGETHER of one shopper's candidates, float32 (N, 3); NaN where nothing is compared.

        Args:
            history_H, candidate_N: int, numbers of things; −1 is none, and numbers from the table's size on are things
                that nobody took, such as new texts.
        """
        history_1H, candidate_N1 = history_H[None], candidate_N[:, None]
        lifts_NH = lift(self.both(history_1H, candidate_N1), self.alone(history_1H), self.alone(candidate_N1))
        return pool(lifts_NH, left_out(history_1H, candidate_N), 5)

    def write(self, path: Path) -> None:
        """Write as .npz, whole or not at all."""
        with atomic_write(path) as partial, partial.open("wb") as file:
            np.savez(file, pairs=self.pairs_P, both=self.both_P, alone=self.alone_T, until=np.array(self.until))

    @classmethod
    def read(cls, path: Path) -> "CoPurchase":
        """Read what `write` wrote.

        Raises:
            UserError: the file is missing or unreadable.
        """
        try:
            with np.load(path, allow_pickle=False) as held:
                return cls(held["pairs"], held["both"], held["alone"], str(held["until"]))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path} is missing or unreadable: prepare, or export, again") from error


def _principal(
    vectors_TD: np.ndarray, width: int, progress: Callable[[float], None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (D,), the first `width` principal axes (Q, D) and the variances along them (Q,), read in blocks."""
    things, size = vectors_TD.shape
    mean_D, products_DD = np.zeros(size), np.zeros((size, size))
    for begin in range(0, things, 16_384):
        block = np.asarray(vectors_TD[begin : begin + 16_384], dtype=np.float64)
        mean_D += block.sum(0) / things
        products_DD += block.T @ block / things
        progress(min(begin + 16_384, things) / things)
    variances, axes_DD = np.linalg.eigh(products_DD - np.outer(mean_D, mean_D))
    kept = min(width, size)
    return mean_D, axes_DD[:, ::-1].T[:kept], variances[::-1][:kept]


def principal_axes(
    vectors_TD: np.ndarray, width: int, progress: Callable[[float], None] = lambda fraction: None
) -> np.ndarray:
    """The directions in which vectors vary most, float32 (Q, D): orthonormal rows, Q = min(width, D).

    Args:
        vectors_TD: float, may be a mapped file: it is read in blocks.
        width: how many directions at most.
        progress: is told the fraction of vectors that were read.
    """
    _, axes_QD, _ = _principal(vectors_TD, width, progress)
    # An axis may point either way: its largest entry is positive, so that machines agree.
    largest = axes_QD[np.arange(len(axes_QD)), np.abs(axes_QD).argmax(1)]
    return np.ascontiguousarray(axes_QD * np.sign(largest)[:, None], dtype=np.float32)

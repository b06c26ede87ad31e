"""How surely a linear prior knows its coefficients: bootstrap replicates of them, and of the mean slope of each number.

Users are drawn with replacement, all rows of a user together. Each resample is answered by one Newton step from the
fitted coefficients (Kline & Santos 2012, the score bootstrap), β_b = β + H⁻¹ Σ_n (w_n − 1) x_n (y_n − p_n), H the
Hessian of the penalised loss: as good as refitting where there are many rows, and hundreds of times quicker.

Shape suffixes: N rows, R regressors and the intercept as the last one, B resamples, K numbers, U users.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.modeling.linear_model import LinearModel

SUFFIX = ".response.npz"
"""Behind the name of the objective, beside the model's text."""
STEP = 1e-3
"""By which a number's logarithm is moved for its slope."""


@dataclass(frozen=True)
class LinearResponse:
    """Replicates of one linear prior.

    Attributes:
        replicates: float32 (B, R), coefficients, the intercept the last.
        slopes: float64 (K, B + 1), mean over the training rows of ∂ log-odds / ∂ log number of each number that is read
            as its logarithm; the fitted model's own is the first of a row.
        positions: int64 (K,), those numbers among the columns.
        rate: share of the rows with label 1.
    """

    replicates: np.ndarray
    slopes: np.ndarray
    positions: np.ndarray
    rate: float

    def moved(self, model: LinearModel, columns_NF: np.ndarray) -> np.ndarray:
        """Log-odds of every replicate, float64 (B, N), of raw columns as `model` reads them."""
        design = model.design(np.asarray(columns_NF, np.float32))
        return np.asarray((design @ self.replicates[:, :-1].T.astype(np.float64)).T + self.replicates[:, -1:])

    def slope(self, position: int) -> np.ndarray | None:
        """The mean slopes of one number, float64 (B + 1,), the model's own the first; None where it has none."""
        found = np.flatnonzero(self.positions == position)
        return self.slopes[found[0]] if len(found) else None

    def write(self, path: Path) -> None:
        """Write as .npz, whole or not at all."""
        with atomic_write(path) as partial, partial.open("wb") as file:
            np.savez(
                file, replicates=self.replicates, slopes=self.slopes, positions=self.positions, rate=np.array(self.rate)
            )

    @classmethod
    def read(cls, path: Path) -> "LinearResponse":
        """Read what `write` wrote.

        Raises:
            UserError: the file is missing or unreadable.
        """
        try:
            with np.load(path, allow_pickle=False) as held:
                return cls(held["replicates"], held["slopes"], held["positions"], float(held["rate"]))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path} is missing or unreadable: train, or export, again") from error


def resample_response(
    model: LinearModel,
    columns_NF: np.ndarray,
    label_N: np.ndarray,
    user_N: np.ndarray,
    *,
    resamples: int,
    seed: int,
    weight_N: np.ndarray | None = None,
    users: int | None = None,
) -> LinearResponse:
    """Bootstrap replicates of a fitted model.

    Args:
        model: fitted on these rows.
        columns_NF: raw, float32, NaN where unknown.
        label_N: 0 or 1.
        user_N: int, a number from 0 for each row's user; models of one seed and the same numbers share their draws, so
            that replicates of clicks and of conversions belong together.
        resamples: B.
        seed: of draws.
        weight_N: how much each row counts, float; None where all count alike.
        users: how many there are, those without a row here too, so that models of fewer rows share the draws; None:
            those of `user_N`.

    Raises:
        UserError: there is one user only, so that nothing can be drawn.
    """
    users = int(user_N.max()) + 1 if users is None else users
    if len(np.unique(user_N)) < 2:
        raise UserError("resamples need rows of at least two users: prepare more data, or set resamples: 0")
    from scipy import sparse

    columns_NF = np.asarray(columns_NF, np.float32)
    plain = model.design(columns_NF)
    design = sparse.csr_array(sparse.hstack([plain, np.ones((plain.shape[0], 1))]))
    logit_N = model.log_odds(columns_NF)
    counts_N = np.ones(len(label_N)) if weight_N is None else np.asarray(weight_N, np.float64)
    residual_N, curve_N = counts_N * (label_N - expit(logit_N)), counts_N * expit(logit_N) * expit(-logit_N)
    hessian_RR = np.asarray((design.T @ sparse.csr_array(design.multiply(curve_N[:, None]))).todense())
    penalty_R = np.append(np.full(plain.shape[1], 1 / model.inverse_penalty), 1e-9)  # the intercept has none
    hessian_RR += np.diag(penalty_R)
    generator = np.random.default_rng(seed)
    pushed_RB = np.empty((design.shape[1], resamples))
    for number in range(resamples):
        drawn_U = np.bincount(generator.integers(0, users, users), minlength=users)
        pushed_RB[:, number] = design.T @ ((drawn_U[user_N] - 1.0) * residual_N)
    fitted_R = np.append(np.array(model.weights), model.intercept)
    replicates_BR = fitted_R + np.linalg.solve(hessian_RR, pushed_RB).T
    all_coefficients = np.concatenate([fitted_R[None], replicates_BR])[:, :-1]
    slopes_KB = [all_coefficients @ _mean_slope(model, columns_NF, counts_N, position) for position in model.logs]
    return LinearResponse(
        replicates_BR.astype(np.float32),
        np.array(slopes_KB).reshape(len(model.logs), resamples + 1),
        np.array(model.logs, np.int64),
        float(np.average(label_N, weights=counts_N)),
    )


def _mean_slope(model: LinearModel, columns_NF: np.ndarray, counts_N: np.ndarray, position: int) -> np.ndarray:
    """Mean over rows, by how much each counts, of a regressor's gain per unit of the number's log, float64 (R − 1,)."""
    higher: Any = columns_NF.astype(np.float64)
    lower = higher.copy()
    higher[:, position] *= np.exp(STEP)
    lower[:, position] *= np.exp(-STEP)
    difference = model.design(higher) - model.design(lower)
    return np.asarray(counts_N @ difference).ravel() / (2 * STEP * counts_N.sum())

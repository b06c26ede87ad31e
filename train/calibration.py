"""Calibration after training: fitted on the valid split, kept in the run folder where it helps, read by later commands.

Whether it helps is measured by cross-fitting over users: every row is corrected by a fit that saw no row of its user.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.common.atomic import atomic_write
from equipoise.common.calibration import Calibration
from equipoise.common.errors import UserError
from equipoise.configs.objective_spec import ObjectiveSpec
from equipoise.evaluation.metrics.own_targets import own_targets
from equipoise.evaluation.metrics.pointwise import target_weight

if TYPE_CHECKING:
    from equipoise.train.objectives.base import Objective

FILE_NAME = "calibration.json"
FOLDS = 5
LINES = 60
"""Resamples of the users by which it is told how sure a calibration is."""
Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]
"""Label, logit, user and weight of the rows of one objective, (N,) each; no weight where all count alike."""
Fit = Callable[[np.ndarray, np.ndarray, np.ndarray | None], Calibration | None]


def fit_platt(label: np.ndarray, logit: np.ndarray, weight: np.ndarray | None = None) -> Calibration | None:
    """The line of the lowest log loss; None where that falls, and would turn the order around."""
    slope, intercept = _line(label, logit, weight)
    return Calibration("platt", slope=slope, intercept=intercept) if slope > 0 else None


def _line(label: np.ndarray, logit: np.ndarray, weight: np.ndarray | None) -> tuple[float, float]:
    """Slope and intercept of the lowest log loss."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=1e6).fit(logit[:, None], label, sample_weight=weight)
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def fit_isotonic(label: np.ndarray, logit: np.ndarray, weight: np.ndarray | None = None) -> Calibration | None:
    """The rising curve of the lowest squared error, through the centres of its steps (Oron & Flournoy 2017)."""
    from sklearn.isotonic import IsotonicRegression

    mass = np.ones(len(label)) if weight is None else np.asarray(weight, np.float64)
    steps = IsotonicRegression().fit_transform(logit, label, sample_weight=weight)
    _, step = np.unique(steps, return_inverse=True)
    rows = np.bincount(step, mass)
    base = np.average(label, weights=weight)
    # A step that saw one class only must not say 0 or 1: a row at the base rate is added to each.
    rate = np.maximum.accumulate((np.bincount(step, mass * label) + base) / (rows + 1))
    centre = np.bincount(step, mass * logit) / rows
    kept = np.r_[True, np.diff(centre) > 0]
    return Calibration(
        "isotonic",
        logits=tuple(centre[kept].tolist()),
        calibrated=tuple((np.log(rate) - np.log1p(-rate))[kept].tolist()),
    )


FITS: dict[str, Fit] = {"platt": fit_platt, "isotonic": fit_isotonic}


def calibrate(rows: Rows, method: str, seed: int) -> dict[str, Any]:
    """Fit one objective, and measure by cross-fitting whether that lowers its log loss.

    Args:
        rows: of the valid split.
        method: platt or isotonic.
        seed: of which user is in which fold.

    Returns:
        rows; kept; log_loss (before and, cross-fitted, after; null where undefined); why, one sentence; calibration
        (`Calibration.to_json`) where it is kept; lines, as `calibration_lines` of the logits that are handed on, where
        there are users enough.
    """
    label, logit, user, weight = rows
    record: dict[str, Any] = {"method": method, "rows": len(label), "kept": False, "log_loss": None}
    codes = np.unique(user, return_inverse=True)[1]
    users = int(codes.max()) + 1 if len(codes) else 0
    fold = (np.random.default_rng(seed).permutation(users) % FOLDS)[codes] if users else codes
    inside = [fold == number for number in range(min(FOLDS, users))]
    if users < FOLDS or any(len(np.unique(label[~part])) < 2 for part in inside):
        return record | {"why": f"off: {len(label):,} rows of {users} users are too few to tell whether it helps"}
    found = np.empty(len(label))
    for part in inside:
        fitted = FITS[method](label[~part], logit[~part], None if weight is None else weight[~part])
        found[part] = logit[part] if fitted is None else fitted(logit[part])
    before, after = _log_loss(label, logit, weight), _log_loss(label, found, weight)
    record["log_loss"] = {"before": before, "after": after}
    whole = FITS[method](label, logit, weight)
    kept = whole is not None and after < before
    handed_on = whole(logit) if whole is not None and kept else logit
    record["lines"] = calibration_lines(label, handed_on, codes, weight, seed)
    if whole is None or not kept:
        return record | {"why": f"off: the cross-fitted log loss is {after:.5f}, not below {before:.5f} without it"}
    why = f"on: the cross-fitted log loss is {after:.5f} instead of {before:.5f}"
    return record | {"kept": True, "why": why, "calibration": whole.to_json()}


def calibration_lines(
    label: np.ndarray, logit: np.ndarray, user: np.ndarray, weight: np.ndarray | None, seed: int
) -> list[list[float]]:
    """How sure logits are: lines through them, [slope, intercept], each fitted on a resample of the users.

    Args:
        label, logit: of the rows, (N,).
        user: number of each row's user from 0, int64 (N,).
        weight: how much each row counts, (N,); None counts all alike.
        seed: of the resamples.
    """
    rng, users, lines = np.random.default_rng([seed, LINES]), int(user.max()) + 1, []
    for _ in range(LINES):
        times = np.bincount(rng.integers(0, users, users), minlength=users)[user].astype(np.float64)
        drawn = times > 0
        if len(np.unique(label[drawn])) == 2:
            mass = times[drawn] if weight is None else times[drawn] * weight[drawn]
            lines.append([round(number, 6) for number in _line(label[drawn], logit[drawn], mass)])
    return lines


def calibration_rows(
    scores: Mapping[str, np.ndarray],
    user: np.ndarray,
    objectives: Mapping[str, "Objective"],
    specs: Mapping[str, ObjectiveSpec],
) -> dict[str, Rows]:
    """Rows of each objective that gives a probability, from `score_slates`: those of its own target; of clicks, where
    the effect of places was taken out, those of the first place.

    Args:
        scores: of all rows.
        user: user_id of each row, (N,).
        objectives, specs: of the run.
    """
    from equipoise.train.scoring import EXAMINATION, WEIGHT
    from equipoise.train.validation import labels_and_predictions

    label, predictions = labels_and_predictions(scores, objectives)
    clicked, weight = label["click"] == 1, scores.get(WEIGHT)
    # Logits are those of the first place: what was shown elsewhere was clicked less.
    first = scores[EXAMINATION] == 1 if EXAMINATION in scores else slice(None)
    first_weight = None if weight is None else weight[first]
    rows: dict[str, Rows] = {
        "ctr": (label["click"][first].astype(np.float64), scores["ctr"][first], user[first], first_weight)
    }
    if "cvr" in scores:
        converted, weights = label["conversion"][clicked].astype(np.float64), target_weight("cvr", clicked, weight)
        rows["cvr"] = (converted, scores["cvr"][clicked], user[clicked], weights)
    binary = {name: scores[name] for name in predictions if specs[name].form == "binary"}
    return rows | own_targets(specs, label, binary, user, weight)


def write_calibrations(run: Path, found: Mapping[str, Mapping[str, Any]], adapters: str) -> None:
    """Write calibration.json, which holds for the adapters of this sha256 alone; `found`: `calibrate` by objective."""
    with atomic_write(run / FILE_NAME) as partial:
        partial.write_text(json.dumps({"adapters": adapters, "objectives": found}, indent=2) + "\n")


def read_calibrations(run: Path, adapters: Path) -> dict[str, Calibration]:
    """The calibrations of a run that were fitted for these adapters and help; none where there is no such file.

    Raises:
        UserError: the file cannot be read.
    """
    found = _read(run, adapters, lambda about: Calibration.of(about["calibration"]) if about["kept"] else None)
    return {name: each for name, each in found.items() if each is not None}


def read_calibration_lines(run: Path, adapters: Path) -> dict[str, list[list[float]]]:
    """`calibration_lines` of the objectives for these adapters; none where there is no such file, or an older one.

    Raises:
        UserError: the file cannot be read.
    """
    found = _read(run, adapters, lambda about: about.get("lines"))
    return {name: lines for name, lines in found.items() if lines}


def _read(run: Path, adapters: Path, part: Callable[[Mapping[str, Any]], Any]) -> dict[str, Any]:
    """A part of the record of every objective, where calibration.json holds for these adapters."""
    from equipoise.modeling.adapter_store import adapters_hash

    path = run / FILE_NAME
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text("utf-8"))
        if record["adapters"] != adapters_hash(adapters):
            return {}
        return {name: part(about) for name, about in record["objectives"].items()}
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} cannot be read: delete it to go without calibration, or train again") from error


def _log_loss(label: np.ndarray, logit: np.ndarray, weight: np.ndarray | None) -> float:
    return float(np.average(np.logaddexp(0.0, logit) - label * logit, weights=weight))

"""What is measured of the pointwise objectives beside ctr and cvr, each on its own target: the label given its chain.

Every number is NaN where it is undefined.
"""

from collections.abc import Callable, Mapping

import numpy as np

from equipoise.configs.objective_spec import ObjectiveSpec
from equipoise.configs.objectives import chain
from equipoise.evaluation.metrics.pointwise import target_metrics

BUILT_IN_TARGETS = ("ctr", "cvr")

Target = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]
"""Label, prediction, request and weight of the observed rows; no weight where all count alike."""


def own_targets(
    specs: Mapping[str, ObjectiveSpec],
    labels: Mapping[str, np.ndarray],
    predictions: Mapping[str, np.ndarray],
    request: np.ndarray,
    weight: np.ndarray | None = None,
) -> dict[str, Target]:
    """The observed rows of each further objective: those whose chain happened and whose label is known.

    Args:
        specs: of all objectives of the run.
        labels: by column, click and conversion among them, (N,).
        predictions: by objective its probability, value or count, (N,).
        request: request number, (N,).
        weight: how much each row counts, (N,); None counts all alike.
    """
    arrays = {}
    for name, spec in specs.items():
        if name in BUILT_IN_TARGETS or name not in predictions or spec.label is None or spec.label not in labels:
            continue
        label = np.asarray(labels[spec.label], np.float64)
        kept = np.isfinite(label)
        for other in chain(dict(specs), name):
            kept &= np.asarray(labels[str(specs[other].label)]) == 1
        weights = None if weight is None else weight[kept]
        arrays[name] = (label[kept], np.asarray(predictions[name], np.float64)[kept], request[kept], weights)
    return arrays


def own_metrics(specs: Mapping[str, ObjectiveSpec], targets: Mapping[str, Target]) -> dict[str, dict[str, float]]:
    """The metrics of each target by its form: those of ctr for binary ones, else `value_metrics` or `count_metrics`."""
    measures: dict[str, Callable[..., dict[str, float]]] = {
        "binary": target_metrics,
        "value": value_metrics,
        "count": count_metrics,
    }
    found = {}
    for name, (label, predicted, request, weight) in targets.items():
        found[name] = measures[str(specs[name].form)](label, predicted, request, weight=weight)
    return found


def value_metrics(
    label: np.ndarray, predicted: np.ndarray, request: np.ndarray, weight: np.ndarray | None = None
) -> dict[str, float]:
    """RMSE, MAE and Spearman's rank correlation, and RMSE and MAE of always saying the observed mean.

    All but the rank correlation count each row by its weight.
    """
    if not len(label):
        names = ("rmse", "mae", "spearman", "rmse_of_mean", "mae_of_mean", "predicted", "observed")
        return dict.fromkeys(names, float("nan"))
    error, spread = predicted - label, label - np.average(label, weights=weight)
    return {
        "rmse": float(np.sqrt(np.average(error**2, weights=weight))),
        "mae": float(np.average(np.abs(error), weights=weight)),
        "spearman": _spearman(label, predicted),
        "rmse_of_mean": float(np.sqrt(np.average(spread**2, weights=weight))),
        "mae_of_mean": float(np.average(np.abs(spread), weights=weight)),
        "predicted": float(np.average(predicted, weights=weight)),
        "observed": float(np.average(label, weights=weight)),
    }


def count_metrics(
    label: np.ndarray, predicted: np.ndarray, request: np.ndarray, weight: np.ndarray | None = None
) -> dict[str, float]:
    """Poisson's deviance over that of always saying the observed mean: below 1 is better than the base rate.

    All but the rank correlation count each row by its weight.
    """
    if not len(label):
        return dict.fromkeys(("deviance", "spearman", "predicted", "observed"), float("nan"))
    mean = float(np.average(label, weights=weight))
    base = _deviance(label, np.full(len(label), mean), weight)
    return {
        "deviance": _deviance(label, predicted, weight) / base if base > 0 else float("nan"),
        "spearman": _spearman(label, predicted),
        "predicted": float(np.average(predicted, weights=weight)),
        "observed": mean,
    }


def _deviance(label: np.ndarray, mean: np.ndarray, weight: np.ndarray | None) -> float:
    """2 Σ w (y log(y / μ) − (y − μ))."""
    mean = np.maximum(mean, np.finfo(np.float64).tiny)
    log_ratio = np.log(np.where(label > 0, label, 1.0) / np.where(label > 0, mean, 1.0))
    return float(2 * ((label * log_ratio - (label - mean)) * (1.0 if weight is None else weight)).sum())


def _spearman(label: np.ndarray, predicted: np.ndarray) -> float:
    from scipy.stats import rankdata

    if len(label) < 2 or not np.isfinite(predicted).all():
        return float("nan")
    one, two = (rankdata(values) - (len(label) + 1) / 2 for values in (label, predicted))
    size = float(np.sqrt((one**2).sum() * (two**2).sum()))
    return float((one * two).sum() / size) if size > 0 else float("nan")

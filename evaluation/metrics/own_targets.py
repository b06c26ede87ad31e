"""What is measured of the pointwise objectives beside ctr and cvr, each on its own target: the label given its chain.

Every number is NaN where it is undefined.
"""

from collections.abc import Callable, Mapping

import numpy as np

from equipoise.configs.objective_spec import ObjectiveSpec
from equipoise.configs.objectives import chain
from equipoise.evaluation.metrics.pointwise import target_metrics

BUILT_IN_TARGETS = ("ctr", "cvr")

Target = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Label, prediction and request of the observed rows."""


def own_targets(
    specs: Mapping[str, ObjectiveSpec],
    labels: Mapping[str, np.ndarray],
    predictions: Mapping[str, np.ndarray],
    request: np.ndarray,
) -> dict[str, Target]:
    """The observed rows of each further objective: those whose chain happened and whose label is known.

    Args:
        specs: of all objectives of the run.
        labels: by column, click and conversion among them, (N,).
        predictions: by objective its probability, value or count, (N,).
        request: request number, (N,).
    """
    arrays = {}
    for name, spec in specs.items():
        if name in BUILT_IN_TARGETS or name not in predictions or spec.label is None or spec.label not in labels:
            continue
        label = np.asarray(labels[spec.label], np.float64)
        kept = np.isfinite(label)
        for other in chain(dict(specs), name):
            kept &= np.asarray(labels[str(specs[other].label)]) == 1
        arrays[name] = (label[kept], np.asarray(predictions[name], np.float64)[kept], request[kept])
    return arrays


def own_metrics(specs: Mapping[str, ObjectiveSpec], targets: Mapping[str, Target]) -> dict[str, dict[str, float]]:
    """The metrics of each target by its form: those of ctr for binary ones, else `value_metrics` or `count_metrics`."""
    measures: dict[str, Callable[..., dict[str, float]]] = {
        "binary": target_metrics,
        "value": value_metrics,
        "count": count_metrics,
    }
    return {name: measures[str(specs[name].form)](*target) for name, target in targets.items()}


def value_metrics(label: np.ndarray, predicted: np.ndarray, request: np.ndarray) -> dict[str, float]:
    """RMSE, MAE and Spearman's rank correlation, and RMSE and MAE of always saying the observed mean."""
    if not len(label):
        names = ("rmse", "mae", "spearman", "rmse_of_mean", "mae_of_mean", "predicted", "observed")
        return dict.fromkeys(names, float("nan"))
    error, spread = predicted - label, label - label.mean()
    return {
        "rmse": float(np.sqrt((error**2).mean())),
        "mae": float(np.abs(error).mean()),
        "spearman": _spearman(label, predicted),
        "rmse_of_mean": float(np.sqrt((spread**2).mean())),
        "mae_of_mean": float(np.abs(spread).mean()),
        "predicted": float(predicted.mean()),
        "observed": float(label.mean()),
    }


def count_metrics(label: np.ndarray, predicted: np.ndarray, request: np.ndarray) -> dict[str, float]:
    """Poisson's deviance over that of always saying the observed mean: below 1 is better than the base rate."""
    base = _deviance(label, np.full(len(label), label.mean())) if len(label) else float("nan")
    return {
        "deviance": _deviance(label, predicted) / base if base > 0 else float("nan"),
        "spearman": _spearman(label, predicted),
        "predicted": float(predicted.mean()) if len(label) else float("nan"),
        "observed": float(label.mean()) if len(label) else float("nan"),
    }


def _deviance(label: np.ndarray, mean: np.ndarray) -> float:
    """2 Σ (y log(y / μ) − (y − μ))."""
    mean = np.maximum(mean, np.finfo(np.float64).tiny)
    log_ratio = np.log(np.where(label > 0, label, 1.0) / np.where(label > 0, mean, 1.0))
    return float(2 * (label * log_ratio - (label - mean)).sum())


def _spearman(label: np.ndarray, predicted: np.ndarray) -> float:
    from scipy.stats import rankdata

    if len(label) < 2 or not np.isfinite(predicted).all():
        return float("nan")
    one, two = (rankdata(values) - (len(label) + 1) / 2 for values in (label, predicted))
    size = float(np.sqrt((one**2).sum() * (two**2).sum()))
    return float((one * two).sum() / size) if size > 0 else float("nan")

"""The numbers of an evaluation by one flat name each, and which way is better.

`ctr/auc` is a pointwise metric of a target, `relevance/ndcg@10` or `diversity=1+fairness=0.5/ild@10` a metric of ranked
lists at an operating point, `user_gap/age/auc` the largest gap between user groups, `recall/all@200` the recall out of
the whole catalogue, `recall/new@200` that of items never bought before. Without its operating point, `ild@10` stands
for all of them, as on the axes of a front.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from equipoise.configs.objectives import BUILT_IN

RELEVANCE = "relevance"
LOWER = ("log_loss", "ne", "ece", "exposure_gap", "exposure_gini", "item_gini", "rmse", "mae", "deviance")
NEITHER = ("predicted", "observed", "rmse_of_mean", "mae_of_mean")
WORDS = {
    "auc": "AUC",
    "gauc": "GAUC",
    "uauc": "UAUC",
    "log_loss": "log loss",
    "ne": "NE",
    "ece": "ECE",
    "predicted": "mean p",
    "observed": "observed rate",
    "ndcg": "NDCG",
    "ild": "ILD",
    "coverage": "coverage",
    "exposure_ratio": "exposure min/max",
    "exposure_gap": "exposure gap",
    "exposure_least": "least exposure",
    "exposure_gini": "exposure Gini",
    "exposure_entropy": "exposure entropy",
    "catalogue": "catalogue coverage",
    "item_gini": "Gini of items",
    "novelty": "novelty",
    "serendipity": "serendipity",
    "rmse": "RMSE",
    "mae": "MAE",
    "spearman": "Spearman",
    "deviance": "Poisson deviance ratio",
}
ABOUT = {
    "auc": "Chance that a random positive row is scored above a random negative one; 0.5 is guessing, 1 perfect.",
    "gauc": "AUC within each request, averaged over requests: how well one shopper's candidates are ordered.",
    "uauc": "AUC within each user's rows, averaged over users.",
    "log_loss": "Mean −log of the probability given to what happened; less is better.",
    "ne": "Log loss over that of always saying the observed rate; below 1 is better than that.",
    "ece": "Mean gap between predicted and observed rate over 15 bins of equal size; less is better.",
    "predicted": "Mean of the predicted probabilities; right where it equals the observed rate.",
    "observed": "Share of rows with the event.",
    "ndcg": "Clicked and bought items near the top, discounted by place; 1 is the ideal list.",
    "ild": "Intra-list diversity: mean dissimilarity of the pairs of the list; more is more diverse.",
    "coverage": "Share of all categories that the lists show.",
    "exposure_ratio": "Least over largest exposure of provider groups per candidate; 1 is parity.",
}
"""What a metric means, in one sentence."""
RECALL = {"all": "", "new": " of never bought items"}
TARGETS = {"ctr": BUILT_IN["ctr"].title, "ctcvr": "pCTCVR", "cvr": BUILT_IN["cvr"].title}
"""Targets of the built-in objectives and of their product; further ones are called by their objectives' names."""
POINTWISE = (
    "auc", "gauc", "uauc", "log_loss", "ne", "ece", "predicted", "observed", "rmse", "mae", "spearman", "deviance"
)  # fmt: skip


@dataclass(frozen=True)
class MeasuredPoint:
    """An operating point of one evaluation.

    Attributes:
        name: `relevance`, or the weights such as `diversity=1+fairness=0.5`.
        omega: ω by list-wise objective, without zeros.
        values: metric without the point (`ild@10`) → value.
    """

    name: str
    omega: Mapping[str, float]
    values: Mapping[str, float]


def operating_points(evaluation: Mapping[str, Any]) -> list[MeasuredPoint]:
    """The measured operating points, in the order of the evaluation; undefined metrics are left out."""
    points = []
    for entry in evaluation.get("ranking") or []:
        omega = {name: float(weight) for name, weight in (entry.get("omega") or {}).items() if weight}
        values = {}
        for key, value in entry.items():
            if isinstance(value, Mapping) and key.partition("@")[0] == "exposure":
                rest = key.removeprefix("exposure")
                values[f"exposure_ratio{rest}"] = value.get("min_max")
                values[f"exposure_gap{rest}"] = value.get("gap")
                for name in ("least", "gini", "entropy"):
                    values[f"exposure_{name}{rest}"] = value.get(name)
            elif key != "omega":
                values[key] = value
        points.append(MeasuredPoint(point_name(omega), omega, _defined(values)))
    return points


def point_name(omega: Mapping[str, float]) -> str:
    """`relevance`, or the weights that are not zero joined by +."""
    return "+".join(f"{name}={weight:g}" for name, weight in omega.items() if weight) or RELEVANCE


def metrics_of(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Every defined number of an evaluation by its flat name."""
    metrics: dict[str, Any] = {}
    for target, values in (evaluation.get("pointwise") or {}).items():
        metrics |= {f"{target}/{metric}": value for metric, value in values.items()}
    for target, values in (evaluation.get("regression") or {}).items():
        metrics |= {f"{target}/{metric}": value for metric, value in values.items()}
    for point in operating_points(evaluation):
        metrics |= {f"{point.name}/{metric}": value for metric, value in point.values.items()}
    for attribute, groups in (evaluation.get("user_groups") or {}).items():
        metrics |= {f"user_gap/{attribute}/{metric}": value for metric, value in groups["gap"].items()}
    for which, ranked in (evaluation.get("recall") or {}).items():
        if which in RECALL:
            metrics |= {
                f"recall/{which}@{name.removeprefix('recall')}": value for name, value in ranked["ours"].items()
            }
    return _defined(metrics)


def direction(name: str) -> int:
    """1 where more is better, −1 where less is, 0 where neither is."""
    if name.startswith("user_gap/"):
        return -1
    plain = name.rpartition("/")[2].partition("@")[0]
    return 0 if plain in NEITHER else -1 if plain in LOWER else 1


def target_title(target: str) -> str:
    """What reports call a target."""
    return TARGETS.get(target, target)


def cutoff_of(name: str) -> int | None:
    """The k of a metric @k."""
    number = name.rpartition("@")[2] if "@" in name else ""
    return int(number) if number.isdigit() else None


def words(name: str) -> str:
    """The name as people write it: "pCTR AUC", "ILD@10 at diversity=1", "gap of AUC by age"."""
    target, _, metric = name.rpartition("/")
    plain, at, cutoff = metric.partition("@")
    label = WORDS.get(plain, plain) + at + cutoff
    if target.startswith("user_gap/"):
        return f"gap of {label} by {target.removeprefix('user_gap/')}"
    if target == "recall":
        return f"recall{at}{cutoff}{RECALL[plain]}"
    if target in TARGETS or plain in POINTWISE:
        return f"{target_title(target)} {label}"
    return f"{label} at {target}" if target else label


def _defined(values: Mapping[str, Any]) -> dict[str, float]:
    """The values that are finite numbers; JSON has null for the others."""
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }

"""From the config's objectives to their classes, pointwise ones first: the order of towers, losses and weights."""

from equipoise.configs.objectives import ObjectivesConfig
from equipoise.train.objectives.base import Objective
from equipoise.train.objectives.coverage import Coverage
from equipoise.train.objectives.ctr import Ctr
from equipoise.train.objectives.cvr import Cvr
from equipoise.train.objectives.diversity import Diversity
from equipoise.train.objectives.fairness import Fairness
from equipoise.train.objectives.recall import Recall

CLASSES: dict[str, type[Objective]] = {
    "ctr": Ctr,
    "cvr": Cvr,
    "diversity": Diversity,
    "fairness": Fairness,
    "coverage": Coverage,
    "recall": Recall,
}


def build_objectives(config: ObjectivesConfig) -> dict[str, Objective]:
    """The configured objectives by name, in their fixed order."""
    built = [CLASSES[name](name, options) for name, options in config.active().items()]
    return {objective.name: objective for objective in sorted(built, key=lambda o: o.kind != "pointwise")}

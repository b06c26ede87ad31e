"""What the columns of a prior add to the log-odds of one candidate: SHAP values of trees, terms of a linear
model, and of a blend their weighed mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from equipoise.data.things import ThingTexts
from equipoise.modeling.beside_text import BesideText
from equipoise.modeling.heads import PointHead
from equipoise.modeling.linear_model import LinearModel
from equipoise.modeling.model import SlateModel
from equipoise.modeling.simple_models import Blend


@dataclass(frozen=True)
class PriorTerm:
    """One column: its raw value (a category's index among its texts; None: unknown), and what it adds to log-odds."""

    column: str
    value: float | None
    adds: float


@dataclass(frozen=True)
class PriorTerms:
    """The prior of one objective for one candidate.

    Attributes:
        objective: whose logit begins as this prior.
        log_odds: of the prior.
        weight, bias: a and b, by which the logit holds a · log_odds + b.
        base: log-odds where no column says anything; with all terms it adds up to the model's own log-odds, which are
            those of the whole chain where the prior's are divided by another objective's (`before`).
        before: those objectives.
        terms: of all columns, the largest first.
    """

    objective: str
    log_odds: float
    weight: float
    bias: float
    base: float
    before: list[str]
    terms: list[PriorTerm]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "terms": [vars(term) for term in self.terms]}


def terms_of(
    model: SlateModel,
    beside: BesideText,
    features: Sequence[Sequence[float]],
    texts: ThingTexts,
    position: int,
) -> list[PriorTerms]:
    """The priors of one candidate of a request.

    Args:
        model: for a and b.
        beside: of the same export.
        features, texts: of the whole request, as `BesideText.of` takes them.
        position: of the candidate.
    """
    priors = beside.priors
    if priors is None or not priors.names:
        return []
    columns_1F = beside.columns(features, texts)[0][position : position + 1]
    log_odds = priors.log_odds(columns_1F)[0]
    found = []
    for number, (name, spec) in enumerate(priors.specs.items()):
        own_1F = priors.own_columns(name, columns_1F)
        if spec.method == "column":
            base, added = 0.0, np.array([log_odds[number]])
        elif spec.untold(own_1F)[0]:
            base, alone = contributions(priors.fallbacks[name], spec.of_fallback(own_1F))
            added = np.where(np.array(spec.columns) == spec.fallback, alone[0], 0.0)
        else:
            base, added = contributions(priors.models[name], own_1F)
        values = [None if np.isnan(value) else float(value) for value in own_1F[0]]
        terms = [PriorTerm(c, v, float(a)) for c, v, a in zip(spec.columns, values, added, strict=True)]
        moved = cast(PointHead, model.heads[name]).moved
        assert moved is not None, "an objective with a prior moves it"
        weight, bias = 1.0 + float(moved[0]), float(moved[1])
        terms.sort(key=lambda term: -abs(term.adds))
        found.append(PriorTerms(name, float(log_odds[number]), weight, bias, base, list(spec.before), terms))
    return found


def contributions(model: Any, columns_1F: np.ndarray) -> tuple[float, np.ndarray]:
    """Base and what each column adds to the log-odds of one row, float64 (F,); they add up to the log-odds."""
    if isinstance(model, Blend):
        bases, added = zip(*(contributions(each, columns_1F) for each in (*model.trees, model.linear)), strict=True)
        return float(model.mean(bases[:-1], bases[-1])), model.mean(added[:-1], added[-1])
    if not isinstance(model, LinearModel):
        values = np.asarray(model.predict(columns_1F, pred_contrib=True), np.float64)[0]
        return float(values[-1]), values[:-1]
    design = np.asarray(model.design(columns_1F).todense())[0] * np.array(model.weights)
    added = np.zeros(columns_1F.shape[1])
    for value, of in zip(design, model.sources(columns_1F.shape[1]), strict=True):
        added[list(of)] += value / len(of)  # what two columns add together is halved, as Shapley values are
    return model.intercept, added

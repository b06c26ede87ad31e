"""What stands beside the texts of pairs of candidate and price: rivals at their present prices, and the resamples."""

from dataclasses import replace
from typing import cast

import numpy as np

from equipoise.common.calibration import Calibrations
from equipoise.data.thing_columns import RIVAL
from equipoise.modeling.beside_text import BesideText
from equipoise.modeling.heads import PointHead
from equipoise.modeling.model import SlateModel
from equipoise.modeling.priors import Priors
from equipoise.serving.price_response import Replicates
from equipoise.serving.pricing import PriceQuestion

DEMAND = ("ctr", "cvr")
"""The objectives whose product is the demand."""


def with_rivals(question: PriceQuestion, beside: BesideText) -> PriceQuestion:
    """The question with each pair held against the other candidates as they are priced now."""
    things = beside.things
    if things is None or things.rivals is None or question.present is None:
        return question
    price = beside.features.index(things.rivals.price)
    present_M = np.array([candidate.features[price] for candidate in question.present.candidates])
    prices_P = np.array([pair.features[price] for pair in question.request.candidates])
    gaps_P = things.gaps([c.thing for c in question.present.candidates], present_M, question.owners, prices_P)
    return replace(question, request=replace(question.request, computed={RIVAL: gaps_P}))


def with_replicates(
    question: PriceQuestion, beside: BesideText, model: SlateModel, calibrations: Calibrations
) -> PriceQuestion:
    """The question with what every resample of the priors would change; as it is where ctr or cvr has none."""
    priors = beside.priors
    if priors is None:
        return question
    features = [pair.features for pair in question.request.candidates]
    columns_PF, _ = beside.columns(features, question.request.things)
    replicates = priors.replicates(DEMAND, columns_PF)
    if replicates is None:
        return question
    fitted, moved = priors.log_odds(columns_PF), {}
    for name in DEMAND:
        of_head = cast(PointHead, model.heads[name]).moved
        assert of_head is not None, "an objective with a prior moves it"
        weight = 1.0 + float(of_head[0])
        if name in calibrations and calibrations[name].method == "platt":
            weight *= calibrations[name].slope
        moved[name] = weight * (replicates[name] - fitted[:, priors.names.index(name)])
    return replace(question, replicates=Replicates(moved, overall_elasticity(priors, question.field)))


def overall_elasticity(priors: Priors, field: str) -> np.ndarray | None:
    """Elasticity of demand over the training rows by every resample, float64 (B,); None where a prior lacks the field.

    d log σ(x) / d log price = (1 − p) · dx / d log price, p being the mean rate of the label.
    """
    # The model of a whole chain is of the demand itself; else those of its parts add up.
    chained = "ctr" in priors.before("cvr")
    total_B = None
    for name in ("cvr",) if chained else DEMAND:
        columns = priors.specs[name].columns
        slope = priors.responses[name].slope(columns.index(field)) if field in columns else None
        if slope is None:
            return None
        own_B = (1 - priors.responses[name].rate) * slope[1:]
        total_B = own_B if total_B is None else total_B[: len(own_B)] + own_B[: len(total_B)]
    return total_B

"""A cascade: of many candidates only those pass the model that the priors of an export put first."""

from collections.abc import Sequence
from typing import cast

import numpy as np

from equipoise.common.calibration import with_calibration
from equipoise.common.errors import UserError
from equipoise.modeling.heads import PointHead
from equipoise.serving.ranking import Ranking
from equipoise.serving.request_scorer import RequestScorer
from equipoise.serving.requests import ReadRequest


def first_candidates(
    scorer: RequestScorer, names: Sequence[str], log_odds: np.ndarray, read: ReadRequest, first: int
) -> list[int]:
    """Positions of the candidates with the largest utility by the priors alone, ascending.

    The utility is that of the export (its relevance, the request's weights, value and boosts) at ω = 0, with
    a · prior + b in the place of each logit, calibrated as it is; objectives without a prior tell nothing apart.

    Args:
        scorer: for a, b and calibration.
        names: of the objectives with priors.
        log_odds: of these, float (C, priors).
        read: the request.
        first: how many.
    """
    model = scorer.model
    logits = {name: np.zeros(len(log_odds)) for name in model.pointwise}
    for number, name in enumerate(names):
        moved = cast(PointHead, model.heads[name]).moved
        assert moved is not None, "an objective with a prior moves it"
        logits[name] = (1.0 + float(moved[0])) * log_odds[:, number].astype(np.float64) + float(moved[1])
    logits = with_calibration(logits, scorer.calibrations)
    ranking = Ranking.of(
        None,
        [candidate.item_id for candidate in read.candidates],
        {name: values.tolist() for name, values in logits.items()},
        {},
        {},
        weights=read.weights,
        values=[candidate.value for candidate in read.candidates],
        boosts=[candidate.boost for candidate in read.candidates],
        exponents=model.relevance.exponents,
        links=model.relevance.links,
    )
    return sorted(scored.position for scored in ranking.candidates[:first])


def check_first(first: int | None, prior_columns: Sequence[str]) -> None:
    """Refuse a number that lets nothing pass, or an export that has no priors.

    Raises:
        UserError: names the option and the way out.
    """
    if first is None:
        return
    if first < 1:
        raise UserError(f"--first {first} is too small: give at least 1")
    if not prior_columns:
        raise UserError(
            "--first needs an export whose objectives begin as priors, which say who comes first: leave it out, or "
            "train with objectives.ctr.prior"
        )

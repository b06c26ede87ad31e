"""A ranked request: every candidate with its probabilities, adjustments and utility."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from equipoise.common.link import Link
from equipoise.common.lists import ListRule, one_request
from equipoise.serving.utility import UtilityWeights


@dataclass(frozen=True)
class Scored:
    """One candidate.

    Attributes:
        item_id: as it was given, None where the candidate came without one.
        position: its index among the candidates of the request, from 0.
        rank: its place in the list, from 1: by utility where nothing else makes lists; equal ones keep the given order.
        probabilities: of each pointwise objective, `{"ctr": P(click | impression), "cvr": P(conversion | click)}`.
        pctcvr: P(click and conversion | impression), None where the model has no cvr.
        relevance: r = Σ v log p by the formula of the export.
        deltas: adjustment δ of each list-wise objective.
        utility: u = Σ v log p + Σ ω δ + ω_value log value + boost, which is r + Σ ω δ where nothing else is asked for;
            without ω δ of objectives by which lists are filled place after place.
        value: what it is worth, positive, or None where it was not said.
        boost: added to the utility as it is.
        log_probabilities: log p of each pointwise objective, which stays finite where p is 0, and of values and counts
            that are above 0 by their kind.
        predictions: of each pointwise objective that is not a probability its value or count.
        place: where lists are filled place after place, what it counted at its place, by `relevance` and objective, and
            `cost`, the relevance that the place gave up against the most relevant candidate that was left
            (common/lists.py has the units); empty otherwise, beyond the filled places, and in a drawn list.
        propensity: of a drawn list, how likely the candidate was at its place given those before it; None otherwise.
    """

    item_id: str | None
    position: int
    rank: int
    probabilities: Mapping[str, float]
    pctcvr: float | None
    relevance: float
    deltas: Mapping[str, float]
    utility: float
    value: float | None = None
    boost: float = 0.0
    log_probabilities: Mapping[str, float] = field(default_factory=dict, repr=False)
    predictions: Mapping[str, float] = field(default_factory=dict)
    place: Mapping[str, float] = field(default_factory=dict)
    propensity: float | None = None

    def number(self, objective: str) -> float:
        """The probability, value or count that a pointwise objective says."""
        return self.probabilities[objective] if objective in self.probabilities else self.predictions[objective]

    def to_json(self) -> dict[str, Any]:
        """The fields by their names, but the logarithms of what stands there already."""
        hidden = {"log_probabilities", "predictions", "place", "propensity"}
        shown = {name: value for name, value in vars(self).items() if name not in hidden}
        shown |= {"predictions": dict(self.predictions)} if self.predictions else {}
        shown |= {"place": dict(self.place)} if self.place else {}
        shown |= {} if self.propensity is None else {"propensity": self.propensity}
        return {**shown, "probabilities": dict(self.probabilities), "deltas": dict(self.deltas)}


@dataclass(frozen=True)
class Exploration:
    """How a list was drawn (serving/explore.py).

    Attributes:
        temperature: of the draw.
        log_propensity: of the shown list: the sum of the logarithms of its places' propensities.
        utilities: of all candidates, as given: the draw is Plackett–Luce on them.
    """

    temperature: float
    log_propensity: float
    utilities: tuple[float, ...] = field(repr=False)


@dataclass(frozen=True)
class Ranking:
    """The candidates of one request.

    Attributes:
        request_id: as it was given, or None.
        omega: the operating point ω of the utilities: a weight for each list-wise objective.
        given: all candidates that were scored, in the order in which they were given.
        top: how many of the best are wanted, None for all.
        by_rank: whether `candidates` stand by rank, or as they were given.
        relevance_weights: v of the pointwise objectives; one that is not named has 1.
        value_weight: ω_value.
        lists: how lists are made; None sorts by utility.
        attributes: by item attribute what each candidate has, for `lists`.
        exploration: how the list was drawn; None where it is the ranking itself.
    """

    request_id: str | None
    omega: Mapping[str, float]
    given: tuple[Scored, ...]
    top: int | None = None
    by_rank: bool = True
    relevance_weights: Mapping[str, float] = field(default_factory=dict)
    value_weight: float = 0.0
    lists: ListRule | None = None
    attributes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    exploration: Exploration | None = None

    @property
    def weights(self) -> UtilityWeights:
        """All weights of the utilities."""
        omega = self.omega if self.lists is None else self.lists.adjusts(self.omega)
        return UtilityWeights(omega, self.relevance_weights, self.value_weight)

    @cached_property
    def places(self) -> dict[int, int]:
        """Where the candidate of each `position` stands among `given`, as what is kept of each of them does."""
        return {scored.position: place for place, scored in enumerate(self.given)}

    @cached_property
    def candidates(self) -> list[Scored]:
        """The best `top` candidates by rank; or all as they were given."""
        if not self.by_rank:
            return list(self.given)
        return sorted(self.given, key=lambda scored: scored.rank)[: self.top]

    @staticmethod
    def of(
        request_id: str | None,
        item_ids: Sequence[str | None],
        logits: Mapping[str, Sequence[float]],
        deltas: Mapping[str, Sequence[float]],
        omega: Mapping[str, float],
        top: int | None = None,
        *,
        weights: UtilityWeights | None = None,
        values: Sequence[float | None] | None = None,
        boosts: Sequence[float] | None = None,
        exponents: Mapping[str, float] | None = None,
        links: Mapping[str, Link] | None = None,
        lists: ListRule | None = None,
        attributes: Mapping[str, Sequence[str]] | None = None,
        positions: Sequence[int] | None = None,
    ) -> "Ranking":
        """Rank candidates by what the model gave: a logit of each pointwise, δ of each list-wise objective.

        Args:
            request_id, item_ids: as given.
            logits, deltas: by objective one number per candidate.
            omega: ω of the list-wise objectives.
            top: how many of the best are wanted.
            weights: v and ω_value; its own ω is not read.
            values, boosts: one per candidate; None for none.
            exponents: v in the relevance; None: 1 of every pointwise objective.
            links: what the outputs stand for; one that is not named gives a probability.
            lists, attributes: as `Ranking` has them.
            positions: of these candidates among those that were given; None: they are all.
        """
        named = {name: (links or {}).get(name, Link()) for name in logits}
        exponents = dict.fromkeys(logits, 1.0) if exponents is None else exponents
        given = []
        for position, item_id in enumerate(item_ids):
            every = {name: link.log(logits[name][position]) for name, link in named.items()}
            logs = {name: log for name, log in every.items() if log is not None}
            probabilities = {name: math.exp(logs[name]) for name, link in named.items() if link.name == "sigmoid"}
            predictions = {
                name: float(link.value(np.asarray(logits[name][position], np.float64)))
                for name, link in named.items()
                if link.name != "sigmoid"
            }
            both = math.exp(logs["ctr"] + logs["cvr"]) if {"ctr", "cvr"} <= logs.keys() else None
            adjusted = {name: values[position] for name, values in deltas.items()}
            value = None if values is None else values[position]
            boost = 0.0 if boosts is None else boosts[position]
            relevance = sum(exponent * logs[name] for name, exponent in exponents.items())
            own = position if positions is None else positions[position]
            scored = Scored(item_id, own, 0, probabilities, both, relevance, adjusted, 0.0, value, boost, logs)
            given.append(replace(scored, predictions=predictions) if predictions else scored)
        more = weights or UtilityWeights()
        ranking = Ranking(
            request_id,
            omega,
            tuple(given),
            top,
            relevance_weights=dict(more.relevance),
            value_weight=more.value,
            lists=lists,
            attributes=attributes or {},
        )
        return ranking.reranked(omega)

    def reranked(self, omega: Mapping[str, float]) -> "Ranking":
        """The same scores at another operating point, without the model; an objective left out has weight 0."""
        moved = replace(self, omega=dict(omega), exploration=None)
        utilities = [
            sum(moved.weights.terms(scored.log_probabilities, scored.deltas, scored.value, scored.boost).values())
            for scored in self.given
        ]
        order = sorted(range(len(utilities)), key=lambda position: -utilities[position])
        places: dict[int, dict[str, float]] = {}
        if self.lists is not None and self.lists.active(omega) and all(scored.deltas for scored in self.given):
            order, places = self._filled(self.lists, utilities, omega)
        ranks = {position: rank for rank, position in enumerate(order, start=1)}
        given = tuple(
            replace(
                scored,
                rank=ranks[position],
                utility=utilities[position],
                place=places.get(position, {}),
                propensity=None,
            )
            for position, scored in enumerate(self.given)
        )
        return replace(moved, given=given)

    def _filled(
        self, lists: ListRule, utilities: Sequence[float], omega: Mapping[str, float]
    ) -> tuple[list[int], dict[int, dict[str, float]]]:
        """All positions by rank, and what the placed ones counted at their place."""
        deltas = {name: [scored.deltas[name] for scored in self.given] for name in lists.terms}
        maker = one_request(lists, deltas, self.attributes)
        made = maker(np.array([utilities]), omega, max(lists.places, self.top or 0))
        terms = {**made.terms, "cost": made.cost_RP}
        placed = made.order_RP[0].tolist()
        counted = {
            position: {name: float(values[0, place]) for name, values in terms.items()}
            for place, position in enumerate(placed)
        }
        return made.order(0), counted

    def as_given(self) -> "Ranking":
        """The same with all `candidates` in the order in which they were given."""
        return replace(self, by_rank=False, top=None)

    def to_json(self) -> dict[str, Any]:
        """`request_id`, the weights and `candidates` as plain JSON values, and how a drawn list was drawn."""
        drawn = self.exploration
        told = (
            {}
            if drawn is None
            else {"exploration": {"temperature": drawn.temperature, "log_propensity": drawn.log_propensity}}
        )
        return {
            **told,
            "request_id": self.request_id,
            "omega": dict(self.omega),
            "relevance_weights": dict(self.relevance_weights),
            "value_weight": self.value_weight,
            "candidates": [scored.to_json() for scored in self.candidates],
        }


def demand_of(ranking: Ranking) -> list[float]:
    """pCTR · pCVR of all candidates in the order in which they were given, by a model that has both."""
    return [scored.pctcvr for scored in ranking.given if scored.pctcvr is not None]

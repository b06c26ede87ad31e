"""List-wise objectives that learn by the lists that they make: places filled one after another (common/lists.py).

Of every slate lists are drawn place by place, each with the probability softmax(u(t) / explore) over the candidates
that are left, and rewarded by the metrics of the whole list, R = NDCG@K + ω · what the objective measures. The gradient
of the expected reward is that of REINFORCE with the mean of the other lists as baseline (Williams 1992; Kool et al.
2019; for rankings of Plackett and Luce: Oosterhuis 2021). ω is drawn from what operating points range over, so that one
tower serves them all. With δ = 0 lists are those of the rule by itself, which is where training begins.

Candidates that a step leaves out take part by their priors, without gradient. Slates without a click have no NDCG, and
teach nothing.

Shape suffixes: S slates, M candidates of the longest whole one, D lists that are drawn, K places, A levels, G groups.
"""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cache, partial
from typing import Self

import torch

from equipoise.common.lists import discounts
from equipoise.configs.objectives import PlacedConfig
from equipoise.train.objectives.base import ListwiseObjective, Step, slate_weights, with_gradient
from equipoise.train.objectives.drawn_lists import MOST, drawn_lists, slate_marks


@dataclass(frozen=True)
class WholeSlates:
    """The slates of a batch with all their candidates, the sampled ones first.

    Attributes:
        relevance_SM: float32, without gradient.
        delta_N: float32, with gradient, of the sampled candidates; all others have δ = 0.
        at_SM: int64, the candidate of delta_N at each position; −1 of those that were left out, and where none is.
        gain_SM: 2^rel − 1 of NDCG, float32.
        filled_SM: bool.
        codes: per attribute, int64 (S, M).
        weight_S: how much each slate counts, float32: 0 without a click.
        seeds_S: of each slate's draws, int64, by what it holds alone: no process and no other slate changes them.
    """

    relevance_SM: torch.Tensor
    delta_N: torch.Tensor
    at_SM: torch.Tensor
    gain_SM: torch.Tensor
    filled_SM: torch.Tensor
    codes: dict[str, torch.Tensor]
    weight_S: torch.Tensor
    seeds_S: torch.Tensor

    @classmethod
    def of(cls, step: Step, name: str, attributes: list[str]) -> Self:
        """The whole slates that objective `name` sees."""
        relevance_SM, at_SM, gain_SM, filled_SM, weight_S, seeds_S = step.once("whole slates", lambda: _shared(step))
        codes = {key: step.once(("codes", key), partial(_codes, step, key)) for key in attributes}
        return cls(relevance_SM, step.outputs[name], at_SM, gain_SM, filled_SM, codes, weight_S, seeds_S)

    @property
    def delta_SM(self) -> torch.Tensor:
        """δ at each position, 0 of those that were left out."""
        return torch.where(self.at_SM >= 0, self.delta_N[self.at_SM.clamp(min=0)], 0.0)

    def worth_SM(self, places: int) -> torch.Tensor:
        """Each candidate's share of the value of the ideal list of so many places; see common/lists.py."""
        relevance_SM = self.relevance_SM.masked_fill(~self.filled_SM, -torch.inf)
        gain_SM = (relevance_SM - relevance_SM.amax(1, keepdim=True)).exp()
        best_SK = gain_SM.topk(min(places, gain_SM.shape[1]), dim=1).values
        return gain_SM / (best_SK @ _discounts(best_SK.shape[1], gain_SM)).unsqueeze(1)


def _joined(step: Step, sampled_N: torch.Tensor, others: torch.Tensor | None) -> torch.Tensor:
    """Values of the sampled candidates and of the others by position, (S, M)."""
    index_SM = step.once("sampled", lambda: step.batch.slate_candidates.clamp(min=0))
    own, rest = sampled_N[index_SM], step.batch.rest
    if rest is None or not rest.slate_candidates.shape[1]:
        return own
    at = rest.slate_candidates.clamp(min=0)
    return torch.cat([own, own.new_zeros(at.shape) if others is None else others[at].to(own.dtype)], dim=1)


def _codes(step: Step, key: str) -> torch.Tensor:
    rest = step.batch.rest
    return _joined(step, step.batch.attributes[key], None if rest is None else rest.attributes[key])


def _shared(step: Step) -> tuple[torch.Tensor, ...]:
    """What all list-wise objectives see alike: relevance, at, gain, filled, weight and seeds, as in `WholeSlates`."""
    batch, relevance_N = step.batch, step.relevance()
    at_SM, rest = batch.slate_candidates, batch.rest
    indices, others = at_SM, 0
    if rest is not None and rest.slate_candidates.shape[1]:
        indices, others = torch.cat([at_SM, rest.slate_candidates], dim=1), rest.slate_candidates.shape[1]
    row_S = batch.row.to(at_SM.device, non_blocking=True)
    gain_SM, seeds_S, clicked_S = slate_marks(
        batch.click.to(relevance_N.dtype), batch.conversion, batch.item, row_S, at_SM, others
    )
    weight_S = step.once("slate weights", lambda: slate_weights(batch))
    relevance_SM = _joined(step, relevance_N, None if rest is None else step.rest_relevance())
    if others:
        at_SM = torch.nn.functional.pad(at_SM, (0, others), value=-1)
    counted_S = clicked_S if weight_S is None else clicked_S * weight_S
    return relevance_SM, at_SM, gain_SM, indices >= 0, counted_S, seeds_S


@cache
def _discounts_on(places: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(discounts(places)).to(device, dtype)


def _discounts(places: int, like: torch.Tensor) -> torch.Tensor:
    return _discounts_on(places, like.dtype, like.device)


@dataclass(frozen=True)
class Wish:
    """What an objective adds to candidates by ω, with δ, and how it measures lists by ω; one of the two.

    Attributes:
        price_SM: of each candidate's group; added with δ, by the place's share of the list's exposure, and measured by
            the mean price of what is exposed.
        distance_SMM: of candidates; their sum to those that are placed is added, times exp(δ), and measured as ILD@K.
    """

    price_SM: torch.Tensor | None = None
    distance_SMM: torch.Tensor | None = None


class PlacedObjective(ListwiseObjective):
    """Learns by drawn lists where `form` is greedy, else by the exposure of slates, as its base class."""

    options: PlacedConfig

    @property
    def reads_whole_slates(self) -> bool:
        """Lists are drawn from whole slates."""
        return self.options.form == "greedy"

    @property
    def lower_bound(self) -> float:
        """NDCG, and what the objective measures, are at most 1."""
        return -(1.0 + MOST) if self.options.form == "greedy" else super().lower_bound

    def loss(self, step: Step) -> torch.Tensor:
        """−E[R] of the drawn lists, and β · mean δ² that keeps near the start; in shares of NDCG."""
        if self.options.form == "parallel":
            return super().loss(step)
        options, slates = self.options, WholeSlates.of(step, self.name, self.attributes)
        wish, width = self.wish(step, slates), slates.filled_SM.shape[1]
        places = min(options.places, width)
        discount_K, all_K = _discounts(places, slates.gain_SM), _discounts(options.places, slates.gain_SM)
        worth_SM = step.once(("worth", options.places), lambda: slates.worth_SM(options.places))
        ideal_S = step.once(("ideal", places), lambda: slates.gain_SM.topk(places, dim=1).values @ discount_K)
        found = drawn_lists(
            slates.delta_N.detach(), slates.at_SM, slates.filled_SM, worth_SM, slates.gain_SM, ideal_S, slates.seeds_S,
            slates.weight_S, discount_K, all_K, wish.price_SM, wish.distance_SMM,
            torch.as_tensor(step.totals.slates, device=discount_K.device), options.explore, options.beta,
            options.samples, places, step.world.size,
        )  # fmt: skip
        return with_gradient(slates.delta_N, *found)

    @abstractmethod
    def wish(self, step: Step, slates: WholeSlates) -> Wish:
        """What the objective adds to candidates."""


def pure_exposure(slates: WholeSlates, places: int) -> torch.Tensor:
    """Each candidate's share of the exposure of the K places under pure relevance, float32 (S, M)."""
    relevance_SM = slates.relevance_SM.masked_fill(~slates.filled_SM, -torch.inf)
    order_SM = relevance_SM.argsort(dim=1, descending=True, stable=True)
    kept = min(places, relevance_SM.shape[1])
    share_SM = torch.zeros_like(relevance_SM)
    discount_K = _discounts(kept, share_SM)
    share_SM.scatter_(1, order_SM[:, :kept], discount_K.expand(len(share_SM), -1))
    share_SM = share_SM * slates.filled_SM
    return share_SM / share_SM.sum(1, keepdim=True)

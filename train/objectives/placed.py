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
from typing import Self

import torch

from equipoise.common.lists import FARTHEST, discounts
from equipoise.configs.objectives import PlacedConfig
from equipoise.train.objectives.base import ListwiseObjective, Step, slate_weights

LEAST, MOST = 1 / 16, 4.0
"""Between which ω is drawn, evenly on a log scale: what `equipoise front` measures."""


@dataclass(frozen=True)
class WholeSlates:
    """The slates of a batch with all their candidates, the sampled ones first.

    Attributes:
        relevance_SM: float32, without gradient.
        delta_SM: float32, with gradient; 0 of candidates that were left out.
        gain_SM: 2^rel − 1 of NDCG, float32.
        filled_SM: bool.
        codes: per attribute, int64 (S, M).
        weight_S: how much each slate counts, float32: 0 without a click.
        seeds: of each slate's draws, by what it holds alone, so that no process and no other slate changes them.
    """

    relevance_SM: torch.Tensor
    delta_SM: torch.Tensor
    gain_SM: torch.Tensor
    filled_SM: torch.Tensor
    codes: dict[str, torch.Tensor]
    weight_S: torch.Tensor
    seeds: list[int]

    @classmethod
    def of(cls, step: Step, name: str, attributes: list[str]) -> Self:
        """The whole slates that objective `name` sees."""
        batch = step.batch
        index_SM, rest = batch.slate_candidates, batch.rest

        def joined(sampled_N: torch.Tensor, others: torch.Tensor | None) -> torch.Tensor:
            own = sampled_N[index_SM.clamp(min=0)]
            if rest is None or not rest.slate_candidates.shape[1]:
                return own
            at = rest.slate_candidates.clamp(min=0)
            return torch.cat([own, own.new_zeros(at.shape) if others is None else others[at].to(own.dtype)], dim=1)

        indices = index_SM if rest is None else torch.cat([index_SM, rest.slate_candidates], dim=1)
        filled_SM = indices >= 0
        conversion_N = torch.nan_to_num(batch.conversion)
        gain_N = torch.where(batch.click > 0, torch.where(conversion_N > 0, 3.0, 1.0), 0.0).to(step.outputs[name].dtype)
        gain_SM = joined(gain_N, None) * filled_SM
        weight_S = slate_weights(batch)
        marks = (batch.item[index_SM.clamp(min=0)] * (index_SM >= 0)).sum(1).tolist()
        clicked_S = (gain_SM.sum(1) > 0).to(gain_SM.dtype)
        return cls(
            relevance_SM=joined(step.relevance(), None if rest is None else step.rest_relevance()),
            delta_SM=joined(step.outputs[name], None) * filled_SM,
            gain_SM=gain_SM,
            filled_SM=filled_SM,
            codes={
                key: joined(batch.attributes[key], None if rest is None else rest.attributes[key]) for key in attributes
            },
            weight_S=clicked_S if weight_S is None else clicked_S * weight_S,
            seeds=[row * 1_000_003 + mark for row, mark in zip(batch.row.tolist(), marks, strict=True)],
        )

    def worth_SM(self, places: int) -> torch.Tensor:
        """Each candidate's share of the value of the ideal list of so many places; see common/lists.py."""
        relevance_SM = self.relevance_SM.masked_fill(~self.filled_SM, -torch.inf)
        gain_SM = (relevance_SM - relevance_SM.amax(1, keepdim=True)).exp()
        best_SK = gain_SM.topk(min(places, gain_SM.shape[1]), dim=1).values
        return gain_SM / (best_SK @ _discounts(best_SK.shape[1], gain_SM)).unsqueeze(1)


def _discounts(places: int, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(discounts(places)).to(like)


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
        slates = WholeSlates.of(step, self.name, self.attributes)
        drawn = _Drawn.of(self, step, slates)
        share_S = slates.weight_S
        size_S = slates.filled_SM.sum(1).clamp(min=1)
        pull_S = self.options.beta * slates.delta_SM.square().sum(1) / size_S
        return step.world.scale_to_global_mean((share_S * (drawn.losses_S() + pull_S)).sum(), step.totals.slates)

    @abstractmethod
    def placer(self, step: Step, slates: WholeSlates) -> "Placer":
        """What the objective adds to candidates, and how it measures lists."""


class Placer:
    """How an objective takes part in filling the places of D lists of each slate.

    Args:
        slates: of the batch.
        places: K.
    """

    def __init__(self, slates: WholeSlates, places: int) -> None:
        self.slates, self.places = slates, places

    def added(self, place: int) -> torch.Tensor:
        """What each candidate counts at the place, with gradient, by ω: float32, broadcasts to (S, D, M)."""
        raise NotImplementedError

    def put(self, chosen_SD: torch.Tensor, place: int, there_SD: torch.Tensor) -> torch.Tensor:
        """Take note of who got the place; what the objective measures of that, float32 (S, D), by ω."""
        raise NotImplementedError


class SpreadPlacer(Placer):
    """Unlike candidates: exp(δ) times the distances to those that are placed; measured by ILD@K."""

    def __init__(self, slates: WholeSlates, places: int, codes_SMA: torch.Tensor, draws: int) -> None:
        super().__init__(slates, places)
        self.codes_SMA = codes_SMA
        self.scale = 2 / (places * max(places - 1, 1))
        self.wish_SM = slates.delta_SM.clamp(-FARTHEST, FARTHEST).exp()
        self.apart_SDM = slates.gain_SM.new_zeros(len(slates.gain_SM), draws, slates.gain_SM.shape[1])

    def added(self, place: int) -> torch.Tensor:
        """scale · exp(δ) · Σ distances."""
        return self.scale * self.wish_SM[:, None] * self.apart_SDM

    def put(self, chosen_SD: torch.Tensor, place: int, there_SD: torch.Tensor) -> torch.Tensor:
        """The distances of the placed candidate to those before it."""
        found_SD = self.scale * self.apart_SDM.gather(2, chosen_SD[:, :, None])[:, :, 0] * there_SD
        own_SDA = self.codes_SMA.gather(1, chosen_SD[:, :, None].expand(-1, -1, self.codes_SMA.shape[2]))
        equal_SDMA = (self.codes_SMA[:, None] == own_SDA[:, :, None]).to(found_SD.dtype).cumprod(dim=-1)
        self.apart_SDM = self.apart_SDM + (1 - equal_SDMA.mean(-1)) * there_SD[:, :, None]
        return found_SD


class PricePlacer(Placer):
    """Prices of groups plus δ; measured by the mean price of what is exposed."""

    def __init__(self, slates: WholeSlates, places: int, price_SM: torch.Tensor) -> None:
        super().__init__(slates, places)
        self.price_SM = price_SM
        discount_K = _discounts(places, price_SM)
        self.share_K = discount_K / discount_K.sum()

    def added(self, place: int) -> torch.Tensor:
        """The place's share of the list's exposure, times price and δ."""
        return (self.share_K[place] * (self.price_SM + self.slates.delta_SM))[:, None]

    def put(self, chosen_SD: torch.Tensor, place: int, there_SD: torch.Tensor) -> torch.Tensor:
        """The place's share of the list's exposure, times the price."""
        return self.share_K[place] * self.price_SM.gather(1, chosen_SD) * there_SD


@dataclass(frozen=True)
class _Drawn:
    """D lists of every slate: what each earned, and the log of its probability; (S, D)."""

    reward_SD: torch.Tensor
    log_chance_SD: torch.Tensor

    @classmethod
    def of(cls, objective: PlacedObjective, step: Step, slates: WholeSlates) -> Self:
        """Draw lists under the objective's present δ."""
        options, draws = objective.options, objective.options.samples
        count, width = slates.filled_SM.shape
        places = min(options.places, width)
        placer = objective.placer(step, slates)
        worth_SM = slates.worth_SM(options.places)
        discount_K = _discounts(places, worth_SM)
        # The longest slate of the batch decides how wide this is; what a slate draws must not depend on that.
        noise_SDKM = worth_SM.new_full((count, draws, options.places, width), 0.5)
        omega_S = worth_SM.new_empty(count, 1)
        for row, (seed, size) in enumerate(zip(slates.seeds, slates.filled_SM.sum(1).tolist(), strict=True)):
            drawn = torch.rand(1 + draws * options.places * size, generator=torch.Generator().manual_seed(seed))
            omega_S[row] = LEAST * (MOST / LEAST) ** float(drawn[0])
            noise_SDKM[row][:, :, slates.filled_SM[row]] = drawn[1:].view(draws, options.places, size).to(worth_SM)
        gumbel_SDKM = -(-noise_SDKM.clamp(1e-12, 1 - 1e-7).log()).log()
        open_SDM = slates.filled_SM[:, None].expand(-1, draws, -1).clone()
        reward_SD = worth_SM.new_zeros(count, draws)
        log_chance_SD = torch.zeros_like(reward_SD)
        best_SK = slates.gain_SM.topk(places, dim=1).values
        ideal_S = (best_SK @ discount_K).clamp(min=1e-9)
        for place in range(places):
            utility_SDM = discount_K[place] * worth_SM[:, None] + omega_S[:, :, None] * placer.added(place)
            logits_SDM = (utility_SDM / options.explore).masked_fill(~open_SDM, -1e9)
            with torch.no_grad():
                chosen_SD = (logits_SDM + gumbel_SDKM[:, :, place]).argmax(2)
                there_SD = open_SDM.gather(2, chosen_SD[:, :, None])[:, :, 0]
                gain_SD = slates.gain_SM.gather(1, chosen_SD) * discount_K[place] / ideal_S[:, None]
                reward_SD = reward_SD + there_SD * gain_SD + omega_S * placer.put(chosen_SD, place, there_SD)
            taken_SD = logits_SDM.log_softmax(2).gather(2, chosen_SD[:, :, None])[:, :, 0]
            log_chance_SD = log_chance_SD + torch.where(there_SD, taken_SD, 0.0)
            open_SDM = open_SDM.scatter(2, chosen_SD[:, :, None], False)
        return cls(reward_SD, log_chance_SD)

    def losses_S(self) -> torch.Tensor:
        """−R̄ of each slate, whose gradient is that of −E[R], each list's baseline the mean of the others."""
        draws = self.reward_SD.shape[1]
        others_SD = (self.reward_SD.sum(1, keepdim=True) - self.reward_SD) / (draws - 1)
        surrogate_S = ((self.reward_SD - others_SD) * self.log_chance_SD).mean(1)
        return -self.reward_SD.mean(1) - (surrogate_S - surrogate_S.detach())


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

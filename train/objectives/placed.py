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
from equipoise.modeling.fused.kernels import operation
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
        seeds_S: of each slate's draws, int64, by what it holds alone: no process and no other slate changes them.
    """

    relevance_SM: torch.Tensor
    delta_SM: torch.Tensor
    gain_SM: torch.Tensor
    filled_SM: torch.Tensor
    codes: dict[str, torch.Tensor]
    weight_S: torch.Tensor
    seeds_S: torch.Tensor

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
        marks_S = (batch.item[index_SM.clamp(min=0)] * (index_SM >= 0)).sum(1)
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
            seeds_S=batch.row.to(marks_S.device) * 1_000_003 + marks_S,
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
    """How an objective takes part in filling the places of D lists of each slate."""

    def counts(self, place: int) -> torch.Tensor:
        """What each candidate counts at the place, without gradient, by ω: float32, broadcasts to (S, D, M)."""
        raise NotImplementedError

    def put(self, chosen_SD: torch.Tensor, there_SD: torch.Tensor) -> None:
        """Take note of who got the next place, where there was anybody to get it."""

    def all_counts(self) -> torch.Tensor:
        """What each candidate counted at every place, with gradient, by ω: float32, broadcasts to (S, D, K, M)."""
        raise NotImplementedError

    def measured(self, chosen_SDK: torch.Tensor) -> torch.Tensor:
        """What the objective measures of each place, by ω: float32 (S, D, K)."""
        raise NotImplementedError


class SpreadPlacer(Placer):
    """Unlike candidates: exp(δ) times the distances to those that are placed; measured by ILD@K.

    Args:
        slates: of the batch.
        places: K.
        codes_SMA: the attributes' values, coarse to fine.
        draws: D.
    """

    def __init__(self, slates: WholeSlates, places: int, codes_SMA: torch.Tensor, draws: int) -> None:
        self.scale = 2 / (places * max(places - 1, 1))
        self.wish_SM = slates.delta_SM.clamp(-FARTHEST, FARTHEST).exp()
        equal_SMMA = codes_SMA[:, :, None] == codes_SMA[:, None]
        self.distance_SMM = 1 - equal_SMMA.to(slates.gain_SM.dtype).cumprod(dim=-1).mean(-1)
        count, width = slates.gain_SM.shape
        self._apart = [slates.gain_SM.new_zeros(count, draws, width)]  # before each place

    def counts(self, place: int) -> torch.Tensor:
        """scale · exp(δ) · Σ distances."""
        return self.scale * self.wish_SM[:, None] * self._apart[place]

    def put(self, chosen_SD: torch.Tensor, there_SD: torch.Tensor) -> None:
        """Add the distances to the placed candidate."""
        rows = chosen_SD[:, :, None].expand(-1, -1, self.distance_SMM.shape[2])
        self._apart.append(self._apart[-1] + self.distance_SMM.gather(1, rows) * there_SD[:, :, None])

    def all_counts(self) -> torch.Tensor:
        """As `counts`, of all places."""
        return self.scale * self.wish_SM[:, None, None] * torch.stack(self._apart[:-1], dim=2)

    def measured(self, chosen_SDK: torch.Tensor) -> torch.Tensor:
        """The distances of each placed candidate to those before it."""
        return self.scale * torch.stack(self._apart[:-1], dim=2).gather(3, chosen_SDK[..., None])[..., 0]


class PricePlacer(Placer):
    """Prices of groups plus δ; measured by the mean price of what is exposed.

    Args:
        slates: of the batch.
        places: K.
        price_SM: of each candidate's group.
    """

    def __init__(self, slates: WholeSlates, places: int, price_SM: torch.Tensor) -> None:
        self.price_SM = price_SM
        discount_K = _discounts(places, price_SM)
        self.share_K = (discount_K / discount_K.sum())[: slates.filled_SM.shape[1]]
        self.wish_SM = price_SM + slates.delta_SM

    def counts(self, place: int) -> torch.Tensor:
        """The place's share of the list's exposure, times price and δ."""
        return (self.share_K[place] * self.wish_SM)[:, None]

    def all_counts(self) -> torch.Tensor:
        """As `counts`, of all places."""
        return (self.share_K[:, None] * self.wish_SM[:, None])[:, None]

    def measured(self, chosen_SDK: torch.Tensor) -> torch.Tensor:
        """The place's share of the list's exposure, times the price."""
        return self.share_K * _taken(self.price_SM, chosen_SDK)


def _taken(values_SM: torch.Tensor, chosen_SDK: torch.Tensor) -> torch.Tensor:
    """The values of the chosen candidates, (S, D, K)."""
    return values_SM.gather(1, chosen_SDK.flatten(1)).view(chosen_SDK.shape)


_STRIDE, _WIDEST = -0x61C8864680B583EB, 1 << 24


def _mixed(x: torch.Tensor) -> torch.Tensor:
    """A bijection of int64 whose outputs look random: the finaliser of SplitMix64 (Steele et al. 2014)."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def _uniform(seeds: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    bits = _mixed(_mixed(seeds * _STRIDE) + (number + 1) * _STRIDE)
    return ((((bits >> 11) & ((1 << 53) - 1)).double() + 0.5) * 2.0**-53).float().clamp(1e-12, 1 - 1e-7)


uniform = operation(
    "uniform(Tensor seeds, Tensor number) -> Tensor",
    _uniform,
    lambda seeds, number: torch.empty(
        torch.broadcast_shapes(seeds.shape, number.shape), dtype=torch.float32, device=number.device
    ),
)
"""Draws in (0, 1), float32, each a function of its seed and number (int64, broadcast) alone: on every device, in every
process, without a generator whose state somebody would have to carry."""


@dataclass(frozen=True)
class _Drawn:
    """D lists of every slate: what each earned, and the log of its probability; (S, D)."""

    reward_SD: torch.Tensor
    log_chance_SD: torch.Tensor

    @classmethod
    def of(cls, objective: PlacedObjective, step: Step, slates: WholeSlates) -> Self:
        """Draw lists under the objective's present δ."""
        options = objective.options
        places = min(options.places, slates.filled_SM.shape[1])
        placer, worth_SM = objective.placer(step, slates), slates.worth_SM(options.places)
        discount_K = _discounts(places, worth_SM)
        omega_S, gumbel_SDKM = cls._noise(slates, options, places)
        value_SKM = discount_K[:, None] * worth_SM[:, None]
        with torch.no_grad():
            open_SDM = slates.filled_SM[:, None].expand(-1, options.samples, -1).clone()
            before, chosen = [], []
            for place in range(places):
                utility_SDM = value_SKM[:, None, place] + omega_S[:, None, None] * placer.counts(place)
                keys_SDM = utility_SDM / options.explore + gumbel_SDKM[:, :, place]
                best_SD1 = keys_SDM.masked_fill(~open_SDM, -torch.inf).argmax(2, keepdim=True)
                placer.put(best_SD1[:, :, 0], open_SDM.gather(2, best_SD1)[:, :, 0])
                before.append(open_SDM)
                chosen.append(best_SD1[:, :, 0])
                open_SDM = open_SDM.scatter(2, best_SD1, False)
            open_SDKM, chosen_SDK = torch.stack(before, dim=2), torch.stack(chosen, dim=2)
            there_SDK = open_SDKM.gather(3, chosen_SDK[..., None])[..., 0]
            ideal_S = (slates.gain_SM.topk(places, dim=1).values @ discount_K).clamp(min=1e-9)
            gain_SDK = _taken(slates.gain_SM, chosen_SDK) * discount_K / ideal_S[:, None, None]
            earned_SDK = gain_SDK + omega_S[:, None, None] * placer.measured(chosen_SDK)
        utility_SDKM = value_SKM[:, None] + omega_S[:, None, None, None] * placer.all_counts()
        logits_SDKM = (utility_SDKM / options.explore).masked_fill(~open_SDKM, -1e9)
        taken_SDK = logits_SDKM.log_softmax(3).gather(3, chosen_SDK[..., None])[..., 0]
        return cls((earned_SDK * there_SDK).sum(2), torch.where(there_SDK, taken_SDK, 0.0).sum(2))

    @staticmethod
    @torch.no_grad()
    def _noise(slates: WholeSlates, options: PlacedConfig, places: int) -> tuple[torch.Tensor, torch.Tensor]:
        """ω of each slate, and Gumbel noise (S, D, K, M). What a slate draws depends on its own candidates alone."""
        device, like = slates.filled_SM.device, slates.gain_SM
        rank_SM = slates.filled_SM.cumsum(1)  # not the column: the longest slate of the batch decides how wide this is
        list_D1 = torch.arange(options.samples, device=device)[:, None] * options.places
        line_DK = list_D1 + torch.arange(places, device=device)
        number_SDKM = (line_DK[:, :, None] + 1) * _WIDEST + rank_SM[:, None, None]
        omega_S = LEAST * (MOST / LEAST) ** uniform(slates.seeds_S, torch.zeros_like(slates.seeds_S))
        noise_SDKM = uniform(slates.seeds_S[:, None, None, None], number_SDKM)
        return omega_S.to(like), -(-noise_SDKM.log()).log().to(like)

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

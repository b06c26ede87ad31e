"""Lists drawn place by place, what they earn, and the gradient of that: two operations of a few kernels each.

Of D lists of every slate place k gets the candidate with the largest utility plus Gumbel noise among those that are
left, which is a draw with probability softmax(utility / explore). All draws are functions of the slate's seed. The loss
is −R̄, and its gradient that of −E[R] (REINFORCE, each list's baseline the mean of the others):
∂/∂utility = −(R_d − R̄_others) / D · (chosen − softmax).

Shape suffixes: N sampled candidates, S slates, M candidates of the longest whole one, D lists, K places.
"""

import torch

from equipoise.common.lists import FARTHEST
from equipoise.modeling.operations import operation

LEAST, MOST = 1 / 16, 4.0
"""Between which ω is drawn, evenly on a log scale: what `equipoise front` measures."""
_STRIDE, _WIDEST = -0x61C8864680B583EB, 1 << 24


def _mixed(x: torch.Tensor) -> torch.Tensor:
    """A bijection of int64 whose outputs look random: the finaliser of SplitMix64 (Steele et al. 2014)."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def uniform(seeds: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """Draws in (0, 1), float32, each a function of its seed and number (int64, broadcast) alone: on every device, in
    every process, without a generator whose state somebody would have to carry."""
    bits = _mixed(_mixed(seeds * _STRIDE) + (number + 1) * _STRIDE)
    return ((((bits >> 11) & ((1 << 53) - 1)).double() + 0.5) * 2.0**-53).float().clamp(1e-12, 1 - 1e-7)


def _slate_marks(
    click_N: torch.Tensor,
    conversion_N: torch.Tensor,
    item_N: torch.Tensor,
    row_S: torch.Tensor,
    at_SM: torch.Tensor,
    others: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    own_SM, index_SM = at_SM >= 0, at_SM.clamp(min=0)
    gain_N = torch.where(click_N > 0, torch.where(conversion_N.nan_to_num() > 0, 3.0, 1.0), 0.0).to(click_N.dtype)
    gain_SM = torch.where(own_SM, gain_N[index_SM], 0.0)
    marks_S = torch.where(own_SM, item_N[index_SM], 0).sum(1)
    clicked_S = (gain_SM.sum(1) > 0).to(gain_SM.dtype)
    return torch.nn.functional.pad(gain_SM, (0, others)), row_S * 1_000_003 + marks_S, clicked_S


slate_marks = operation(
    "slate_marks(Tensor click, Tensor conversion, Tensor item, Tensor row, Tensor at, int others)"
    " -> (Tensor, Tensor, Tensor)",
    _slate_marks,
    lambda click, conversion, item, row, at, others: (
        click.new_empty(at.shape[0], at.shape[1] + others), torch.empty_like(row), click.new_empty(len(row)),
    ),
    kernels=7,
)  # fmt: skip
"""Of each slate the gains of NDCG with room for `others`, (S, M); its seed, int64 (S,); 1 with a click, (S,)."""


def _noise(
    seeds_S: torch.Tensor, filled_SM: torch.Tensor, draws: int, places: int, stride: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """ω of each slate, and Gumbel noise (S, D, K, M). What a slate draws depends on its own candidates alone."""
    device = filled_SM.device
    rank_SM = filled_SM.cumsum(1)  # not the column: the longest slate of the batch decides how wide this is
    list_D1 = torch.arange(draws, device=device)[:, None] * stride
    line_DK = list_D1 + torch.arange(places, device=device)
    number_SDKM = (line_DK[:, :, None] + 1) * _WIDEST + rank_SM[:, None, None]
    omega_S = LEAST * (MOST / LEAST) ** uniform(seeds_S, torch.zeros_like(seeds_S))
    noise_SDKM = uniform(seeds_S[:, None, None, None], number_SDKM)
    return omega_S, -(-noise_SDKM.log()).log()


def _drawn_lists(
    delta_N: torch.Tensor, at_SM: torch.Tensor, filled_SM: torch.Tensor, worth_SM: torch.Tensor, gain_SM: torch.Tensor,
    ideal_S: torch.Tensor, seeds_S: torch.Tensor, weight_S: torch.Tensor, discount_K: torch.Tensor, all_K: torch.Tensor,
    price_SM: torch.Tensor | None, distance_SMM: torch.Tensor | None, total: torch.Tensor, explore: float, beta: float,
    draws: int, places: int, size: int,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    stride, like, count_S = all_K.shape[0], gain_SM, filled_SM.sum(1)
    delta_SM = torch.where(at_SM >= 0, delta_N[at_SM.clamp(min=0)], 0.0)
    omega_S, gumbel_SDKM = (each.to(like) for each in _noise(seeds_S, filled_SM, draws, places, stride))
    if distance_SMM is None:
        assert price_SM is not None
        share_K = discount_K / all_K.sum()
        wish_SM, slope_SM = price_SM + delta_SM, torch.ones_like(delta_SM)
        factor_SDKM = share_K[:, None].expand(len(delta_SM), draws, -1, delta_SM.shape[1])
    else:
        bounded_SM = delta_SM.clamp(-FARTHEST, FARTHEST)
        wish_SM = bounded_SM.exp()
        slope_SM = torch.where(bounded_SM == delta_SM, wish_SM, 0.0)
        scale = 2 / (stride * max(stride - 1, 1))
    wished_SM, value_SM = omega_S[:, None] * wish_SM, worth_SM
    open_SDM = filled_SM[:, None].expand(-1, draws, -1)
    apart_SDM = like.new_zeros(len(delta_SM), draws, delta_SM.shape[1])
    column_M = torch.arange(delta_SM.shape[1], device=like.device)
    reward_SD = like.new_zeros(len(delta_SM), draws)
    slopes, factors = [], []
    for place in range(places):
        factor_SDM = factor_SDKM[:, :, place] if distance_SMM is None else scale * apart_SDM
        logits_SDM = (discount_K[place] * value_SM[:, None] + wished_SM[:, None] * factor_SDM) / explore
        best_SD1 = (logits_SDM + gumbel_SDKM[:, :, place]).masked_fill(~open_SDM, -torch.inf).argmax(2, keepdim=True)
        there_S11 = (count_S > place).to(like.dtype)[:, None, None]
        chosen_SDM = column_M == best_SD1
        chance_SDM = logits_SDM.masked_fill(~open_SDM, -1e9).softmax(2)
        slopes.append((chosen_SDM.to(like.dtype) - chance_SDM) * there_S11)
        factors.append(factor_SDM)
        gain_SD = gain_SM.gather(1, best_SD1[:, :, 0]) * discount_K[place] / ideal_S.clamp(min=1e-9)[:, None]
        if distance_SMM is None:
            measured_SD = share_K[place] * price_SM.gather(1, best_SD1[:, :, 0])  # type: ignore[union-attr]
        else:
            measured_SD = torch.where(chosen_SDM, factor_SDM, 0.0).sum(2)
            rows = best_SD1.expand(-1, -1, delta_SM.shape[1])
            apart_SDM = apart_SDM + distance_SMM.gather(1, rows) * there_S11
        reward_SD = reward_SD + (gain_SD + omega_S[:, None] * measured_SD) * there_S11[:, :, 0]
        open_SDM = open_SDM & ~chosen_SDM
    others_SD = (reward_SD.sum(1, keepdim=True) - reward_SD) / (draws - 1)
    better_SD = (reward_SD - others_SD) / draws
    found_SM = -sum(((s * f) * better_SD[:, :, None]).sum(1) for s, f in zip(slopes, factors, strict=True))
    counted_S = weight_S * size / total
    loss_S = beta * delta_SM.square().sum(1) / count_S.clamp(min=1) - reward_SD.mean(1)
    gradient_SM = found_SM * omega_S[:, None] / explore * slope_SM + 2 * beta * delta_SM / count_S.clamp(min=1)[:, None]
    gradient_SM = gradient_SM * counted_S[:, None]
    count = delta_N.shape[0]
    flat_N = delta_N.new_zeros(count + 1)  # the last for positions without a sampled candidate
    index = torch.where(at_SM >= 0, at_SM, count).flatten()
    return (loss_S * counted_S).sum(), flat_N.scatter(0, index, gradient_SM.flatten())[:count].clone()


drawn_lists = operation(
    "drawn_lists(Tensor delta, Tensor at, Tensor filled, Tensor worth, Tensor gain, Tensor ideal, Tensor seeds,"
    " Tensor weight, Tensor discount, Tensor all_discounts, Tensor? price, Tensor? distance, Tensor total,"
    " float explore, float beta, int draws, int places, int size) -> (Tensor, Tensor)",
    _drawn_lists,
    lambda delta, *rest: (delta.new_empty(()), torch.empty_like(delta)),
    kernels=31,  # at five places; about twice as many at ten
)
"""The loss of an objective's lists over all slates, and its gradient by δ of the sampled candidates, (N,).

From δ (N,) and where its candidates are; which positions are filled, and what each is worth and gains, (S, M); the gain
of the ideal list, the seed and the weight of each slate, (S,); discounts of the places that are filled and of all;
prices (S, M) or distances (S, M, M); by what the sum over slates is divided, a tensor; the temperature; β of mean δ²;
D, K, and the number of processes.
"""

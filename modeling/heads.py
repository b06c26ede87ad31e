"""Heads: a logit per candidate for pointwise objectives, an adjustment δ within the slate for list-wise ones, a vector
per text for recall.

Shape suffixes as in modeling/model.py. The X columns of features are V numbers, then Y categories that interact with
them, then B categories with a bias alone, then I numbers of levels. D is the dimension of a vector, W the width of a
slate head.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from equipoise.data.features import FeatureColumns, IndexedLevels
from equipoise.modeling.comparison import Compared, Comparison, ComparisonShape

NO_FEATURES = FeatureColumns()

RESPONSE_WIDTH = 32


class FeatureResponse(nn.Module):
    """What features add to a logit: Σ_f x_f (s_f(v) + Σ_c B_fc y_c) + Σ_c a_c y_c + Σ_l b_l w_l + Σ_i e_i; 0 at first.

    x are numeric features, y categories and w those without interactions (data.features), v is the candidate's vector,
    s = out(GELU(enter(v))). So every category has its own bias a and its own interactions B: the elasticity of a
    segment of shoppers, say. The response to a number goes on beyond those of the training data as a logit in log
    price does. e are levels that are looked up by their number, the last columns, and 0 where that is −1.
    """

    RATE_MULTIPLIER = 2.0
    """Learning-rate multiplier: few numbers say what a category does; at the rate of thousands of weights they lag."""

    def __init__(
        self, hidden: int, numbers: int, categories: int = 0, levels: int = 0, indexed: Sequence[IndexedLevels] = ()
    ) -> None:
        super().__init__()
        self.numbers, self.categories = numbers, categories
        if numbers:
            self.enter = nn.Linear(hidden, RESPONSE_WIDTH)
            self.out = nn.Linear(RESPONSE_WIDTH, numbers)
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)
        self.cross = nn.Linear(categories, numbers + 1, bias=False) if categories else None
        if self.cross is not None:
            nn.init.zeros_(self.cross.weight)
        self.level = nn.Linear(levels, 1, bias=False) if levels else None
        if self.level is not None:
            nn.init.zeros_(self.level.weight)
        self.indexed = nn.ModuleList(nn.Embedding(levels.count, 1) for levels in indexed)
        self.rates = [levels.rate for levels in indexed]
        for parameter in self.indexed.parameters():
            nn.init.zeros_(parameter)

    def forward(self, pooled_NH: torch.Tensor, features_NX: torch.Tensor) -> torch.Tensor:
        """What is added to the logit, float32 (N,)."""
        numbers_NV, categories = features_NX[:, : self.numbers].float(), features_NX[:, self.numbers :]
        interacting_NY, biased_NB = categories[:, : self.categories], categories[:, self.categories :]
        if self.rates:
            biased_NB, numbers_NI = biased_NB[:, : -len(self.rates)], biased_NB[:, -len(self.rates) :].long()
        added_N = torch.zeros(pooled_NH.shape[0], device=pooled_NH.device)
        if self.numbers:
            slopes_NV = self.out(nn.functional.gelu(self.enter(pooled_NH.to(self.enter.weight.dtype))))
            added_N = (slopes_NV.float() * numbers_NV).sum(-1)
        if self.cross is not None:
            crossed_NV1 = self.RATE_MULTIPLIER * self.cross(interacting_NY.to(self.cross.weight.dtype)).float()
            added_N = added_N + (crossed_NV1[:, : self.numbers] * numbers_NV).sum(-1) + crossed_NV1[:, self.numbers]
        if self.level is not None:
            added_N = added_N + self.RATE_MULTIPLIER * self.level(biased_NB.to(self.level.weight.dtype)).float()[:, 0]
        for column, (table, rate) in enumerate(zip(self.indexed, self.rates, strict=True)):
            number_N = numbers_NI[:, column]
            added_N = added_N + rate * table(number_N.clamp(min=0))[:, 0].float() * (number_N >= 0)
        return added_N


@dataclass(frozen=True)
class HeadInputs:
    """What heads read of a batch beside their tower's vectors.

    Attributes:
        slate_candidates: int64 (S, M), the candidate at each position of a slate, −1 where a slate is shorter.
        count: N.
        features: float32 (N, X), standardised; None where the model reads none.
        prior: float32 (N,), log-odds of this head's prior; None where it has none.
        compared: vectors and who is compared with whom; None where nothing is compared.
    """

    slate_candidates: torch.Tensor
    count: int
    features: torch.Tensor | None = None
    prior: torch.Tensor | None = None
    compared: Compared | None = None


class PointHead(nn.Module):
    """One bias-free linear map, as the `score` of stock sequence classifiers, so that it exports as such.

    The log-odds of the base rate, which a bias would have to learn, are a constant added outside (model.offsets).
    With features, a `FeatureResponse` is added to output 0, the logit; with a comparison, a `Comparison`. With a prior,
    output 0 is a · prior + b + all of these, with a = 1, b = 0 and the rest 0 at the start.
    """

    def __init__(
        self,
        hidden: int,
        outputs: int = 1,
        columns: FeatureColumns = NO_FEATURES,
        prior: bool = False,
        comparison: ComparisonShape | None = None,
    ) -> None:
        super().__init__()
        numbers, categories, levels = len(columns.numbers), len(columns.categories), len(columns.levels)
        self.score = nn.Linear(hidden, outputs, bias=False)
        nn.init.normal_(self.score.weight, std=1.0 / hidden)  # the first logit is the base rate's, give or take 0.05
        parts = (hidden, numbers, categories, levels, columns.indexed)
        self.response = FeatureResponse(*parts) if len(columns) else None
        self.moved = nn.Parameter(torch.zeros(2)) if prior else None
        """a − 1 and b."""
        if prior:
            with torch.no_grad():
                self.score.weight[0] = 0.0
        self.numbers = numbers
        self.comparison = Comparison(comparison, numbers + prior) if comparison else None

    def beside_text(self, inputs: HeadInputs) -> torch.Tensor:
        """What stands beside the tower's vector, float32 (N,): a · prior + b, and the comparison; 0 without both."""
        added_N = torch.zeros(inputs.count, device=inputs.slate_candidates.device)
        columns = [] if inputs.features is None else [inputs.features[:, : self.numbers]]
        if self.moved is not None:
            assert inputs.prior is not None, "SlateModel checks that its priors are there"
            a, b = (1.0 + self.moved[0].float()), self.moved[1].float()
            added_N = added_N + a * inputs.prior + b
            columns.append(inputs.prior[:, None])
        if self.comparison is not None:
            assert inputs.compared is not None, "SlateModel checks that what it compares is there"
            columns_NC = torch.cat([added_N[:, None][:, :0], *columns], 1)
            added_N = added_N + self.comparison(inputs.compared, inputs.slate_candidates, columns_NC)
        return added_N

    def forward(self, pooled_NH: torch.Tensor, inputs: HeadInputs | None = None) -> torch.Tensor:
        """Raw scores, float32, (N, outputs); `inputs` where the head has features, a prior or a comparison."""
        return self.beside(self.score(pooled_NH.to(self.score.weight.dtype)).float(), pooled_NH, inputs)

    @property
    def reads_text_alone(self) -> bool:
        """Whether there is nothing beside the tower's vector."""
        return self.response is None and self.moved is None and self.comparison is None

    def beside(self, scores: torch.Tensor, pooled_NH: torch.Tensor, inputs: HeadInputs | None) -> torch.Tensor:
        """Scores (N, outputs) of the tower's vectors, with what stands beside them."""
        if self.reads_text_alone:
            return scores
        assert inputs is not None
        added_N = self.beside_text(inputs)
        if self.response is not None:
            assert inputs.features is not None, "SlateModel checks that its features are there"
            added_N = added_N + self.response(pooled_NH, inputs.features)
        return torch.cat([scores[:, :1] + added_N[:, None], scores[:, 1:]], dim=1)


class SlateHead(nn.Module):
    """δ from one self-attention block over the candidates of a slate; permutation-equivariant; exactly 0 at the start.

    It reads each candidate's vector and its relevance r (no gradient flows into r).
    """

    def __init__(self, hidden: int, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.enter = nn.Linear(hidden, width)
        self.relevance = nn.Linear(1, width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.out = nn.Linear(width, 1, bias=False)
        self.heads = heads
        nn.init.zeros_(self.out.weight)

    def forward(self, pooled_NH: torch.Tensor, relevance_N: torch.Tensor, candidates_SM: torch.Tensor) -> torch.Tensor:
        """δ of every candidate, float32, (N,).

        Args:
            pooled_NH: candidate vectors, slate after slate.
            relevance_N: r = Σ log p, without gradient.
            candidates_SM: int64, the candidate (row of pooled_NH) at each position, −1 where a slate is shorter.
        """
        parts = {name: getattr(self, name) for name in SLATE_PARTS}
        dtype = self.enter.weight.dtype
        inputs = (pooled_NH[None].to(dtype), relevance_N.to(dtype)[None, :, None])
        return adjustments(parts, *inputs, candidates_SM, self.heads)[0]


SLATE_PARTS = ("enter", "relevance", "norm", "qkv", "mix", "out")


def adjustments(
    parts: Mapping[str, Callable[[torch.Tensor], torch.Tensor]],
    pooled_JNH: torch.Tensor,
    relevance_JN1: torch.Tensor,
    candidates_SM: torch.Tensor,
    heads: int,
) -> torch.Tensor:
    """δ of every candidate by J slate heads at once, float32 (J, N).

    Args:
        parts: SLATE_PARTS, for tensors whose first dimension is J.
        pooled_JNH: vectors of each head.
        relevance_JN1: r, without gradient.
        candidates_SM: as in `SlateHead`.
        heads: of the attention.
    """
    filled_SM = candidates_SM >= 0
    entered_JNW = parts["enter"](pooled_JNH) + parts["relevance"](relevance_JN1)
    count, width = entered_JNW.shape[1:]
    slates, positions = candidates_SM.shape
    x_JSMW = entered_JNW.index_select(1, candidates_SM.clamp(min=0).flatten()).unflatten(1, (slates, positions))
    qkv = parts["qkv"](parts["norm"](x_JSMW)).view(-1, positions, 3, heads, width // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    mask = filled_SM.repeat(len(pooled_JNH), 1)[:, None, None, :]
    attended = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    x_JSMW = x_JSMW + parts["mix"](attended.transpose(1, 2).reshape(x_JSMW.shape))
    delta_JSM = parts["out"](nn.functional.gelu(x_JSMW)).squeeze(-1).float()
    # Scatter back to the candidates' own order: a slate's candidates need not stand in the order of its positions.
    flat_JN = delta_JSM.new_zeros(len(pooled_JNH), count + 1)  # the last for empty positions
    index = torch.where(filled_SM, candidates_SM, count).flatten().expand(len(pooled_JNH), -1)
    return flat_JN.scatter(1, index, delta_JSM.flatten(1))[:, :count]


class VectorHead(nn.Module):
    """Unit vectors of shoppers and items, and the weights of what stands beside their inner product.

    s(u, i) = sources(u, i) + scale · ⟨u, v_i⟩ + prior · log p_i + repeat · log(1 + n_ui): p_i the item's share of all
    positives, n_ui how often the shopper has bought it. With sources all three weights begin at 0.

    Args:
        hidden: size of the pooled vectors.
        dimension: D.
        sources: whether the run has them.
    """

    ALONE = (20.0, 1.0, 4.0)
    """Scale, prior and repeat without sources; where half of what is taken was bought before, repeat is large."""
    RATE_MULTIPLIER = 20.0
    """Single numbers must go much farther than a weight among thousands, at the same learning rate."""

    def __init__(self, hidden: int, dimension: int, sources: bool = False) -> None:
        super().__init__()
        self.project = nn.Linear(hidden, dimension, bias=False)
        nn.init.orthogonal_(self.project.weight)  # keeps what the backbone already knows of similar texts
        start = (0.0, 0.0, 0.0) if sources else self.ALONE
        self.mix = nn.Parameter(torch.tensor(start) / self.RATE_MULTIPLIER)

    def forward(self, pooled_NH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit vectors, float32 (N, D), and scale, prior, repeat, float32 (3,)."""
        vectors_ND = self.project(pooled_NH.to(self.project.weight.dtype)).float()
        return nn.functional.normalize(vectors_ND, dim=-1), self.weights()

    def weights(self) -> torch.Tensor:
        """Scale, prior, repeat, float32 (3,)."""
        return self.RATE_MULTIPLIER * self.mix.float()

    @classmethod
    def mix_of(cls, moved: torch.Tensor) -> torch.Tensor:
        """`mix`, (3,), of a run of before there were sources, whose scale was learned as a logarithm."""
        log_scale, prior, repeat = (cls.RATE_MULTIPLIER * moved.double()).unbind()
        scale, prior_start, repeat_start = cls.ALONE
        weights = torch.stack([scale * log_scale.exp(), prior_start + prior, repeat_start + repeat])
        return (weights / cls.RATE_MULTIPLIER).to(moved.dtype)


def as_named_now(tensors: Mapping[str, torch.Tensor], retrieval: Collection[str]) -> dict[str, torch.Tensor]:
    """Tensors of a run or export; heads of `retrieval` of before there were sources get their present name and form."""
    old = {f"heads.{name}.moved": f"heads.{name}.mix" for name in retrieval}
    return {old.get(n, n): VectorHead.mix_of(tensor) if n in old else tensor for n, tensor in tensors.items()}

"""What an objective is: the label or attribute it reads, its head, and its loss.

Shape suffixes: N candidates, S slates, M positions of the longest slate, G groups.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

import torch

from equipoise.common.link import Link
from equipoise.configs.objective_spec import ObjectiveSpec
from equipoise.configs.objectives import BUILT_IN, ListwiseConfig, ObjectiveConfig, chain
from equipoise.data.batches import SlateBatch
from equipoise.modeling.operations import operation
from equipoise.modeling.relevance import Relevance
from equipoise.train.world import World

T = TypeVar("T")
USER = "user:"
"""Before the name of a user attribute where numbers of groups are told."""


@dataclass(frozen=True)
class Totals:
    """Global counts of one micro-batch, by which losses are divided.

    With `data.weights` each candidate counts by its weight, and a slate by the mean weight of its candidates (as 1 each
    where `self_normalize` is off).

    Attributes:
        candidates: sampled candidates of all processes.
        impressions: sum of importance weights, 1 / sampling rate for unclicked ones.
        slates: slates of all processes.

    They stay on the device, float32: nobody waits for them.
    """

    candidates: torch.Tensor | float
    impressions: torch.Tensor | float
    slates: torch.Tensor | float


@dataclass(frozen=True)
class Step:
    """Everything a loss may read: the batch, the model's outputs, the global counts, and the processes.

    `formula`: of the relevance; without one, r = Σ log p over `pointwise`. `self_normalize`: whether weighed losses are
    divided by the sum of weights, as `totals` are made. `priors`: names of the columns of `batch.rest.prior`.
    """

    batch: SlateBatch
    outputs: Mapping[str, torch.Tensor]
    totals: Totals
    world: World
    pointwise: tuple[str, ...]
    formula: Relevance | None = None
    self_normalize: bool = True
    priors: tuple[str, ...] = ()
    _known: dict[Hashable, Any] = field(init=False, repr=False, compare=False, default_factory=dict)

    def reading(self, outputs: Mapping[str, torch.Tensor]) -> "Step":
        """The same step for another objective: what `once` knows is computed no more."""
        other = replace(self, outputs=outputs)
        object.__setattr__(other, "_known", self._known)
        return other

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """What several objectives read of a batch, computed by the first that asks; nothing with a gradient."""
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    def rest_relevance(self) -> torch.Tensor:
        """r of the candidates that the step leaves out, by their priors, float32, without gradient."""
        assert self.batch.rest is not None and self.formula is not None, "asked for where both are there"
        return self.formula(dict(zip(self.priors, self.batch.rest.prior.unbind(1), strict=True)))

    def relevance(self) -> torch.Tensor:
        """r = Σ v log p by the formula, float32 (N,), without gradient."""
        formula = self.formula or Relevance(dict.fromkeys(self.pointwise, 1.0))
        return self.once("relevance", lambda: formula(self.outputs))

    def label(self, column: str | None) -> torch.Tensor:
        """A label of every candidate, float32 (N,), NaN where the data have none."""
        return self.batch.label(str(column))

    def weigh(self, values_N: torch.Tensor) -> torch.Tensor:
        """Values of candidates times their weights (`data.weights`), (N,); as they are where all count alike."""
        return values_N if self.batch.weight is None else values_N * self.batch.weight

    def sampling_weights(self) -> torch.Tensor:
        """How many impressions each sampled candidate stands for, float32 (N,): 1 where it was clicked."""
        batch = self.batch
        return self.once("stand for", lambda: torch.where(batch.click > 0, 1.0, torch.exp(-batch.log_sampling_rate)))

    def importance_weights(self) -> torch.Tensor:
        """How much each sampled candidate counts, float32 (N,): what it stands for, times its weight."""
        return self.weigh(self.sampling_weights())


def local_totals(batch: SlateBatch, self_normalize: bool = True) -> torch.Tensor:
    """This process's part of `Totals`, float64 (3,)."""
    sampled_N = torch.where(batch.click > 0, 1.0, torch.exp(-batch.log_sampling_rate)).double()
    if batch.weight is None or not self_normalize:
        counted = [batch.click.numel(), sampled_N.sum(), batch.slate_candidates.shape[0]]
    else:
        weight_N, weight_S = batch.weight.double(), slate_weights(batch)
        assert weight_S is not None
        counted = [weight_N.sum(), (weight_N * sampled_N).sum(), weight_S.double().sum()]
    return torch.stack([torch.as_tensor(part, dtype=torch.float64, device=batch.click.device) for part in counted])


def slate_weights(batch: SlateBatch) -> torch.Tensor | None:
    """The mean weight of each slate's candidates, float32 (S,); None where all count alike."""
    if batch.weight is None:
        return None
    filled_SM = batch.slate_candidates >= 0
    weight_SM = batch.weight[batch.slate_candidates.clamp(min=0)] * filled_SM
    return weight_SM.sum(1) / filled_SM.sum(1)


class Objective(ABC):
    """One objective. Subclasses set `kind` and write `loss`; state that must survive a restart goes into `state`.

    Args:
        name: of the objective.
        options: its section of the config.
        specs: of all objectives of the run; the built-in ones where nothing is given.

    Attributes:
        spec: what it is.
        before: the specs of its chain, the first one first: their labels must be 1 for its own to be observed.
        link: what its output stands for; `bind` sets the scale.
    """

    kind: str = "pointwise"
    outputs: int = 1

    def __init__(self, name: str, options: ObjectiveConfig, specs: Mapping[str, ObjectiveSpec] | None = None) -> None:
        self.name = name
        self.options = options
        self.state: dict[str, torch.Tensor] = {}
        specs = specs or BUILT_IN
        self.spec = specs.get(name) or ObjectiveSpec(name, "listwise", type(options), type(self), name)
        self.before = [specs[other] for other in chain(specs, name)] if name in specs else []
        self.link = Link()

    def bind(self, groups: Mapping[str, int], links: Mapping[str, Link]) -> Self:
        """The same objective on prepared data.

        Args:
            groups: of each of its attributes, the number of values.
            links: of the pointwise objectives.
        """
        bound = copy.copy(self)
        bound.link = links.get(self.name, Link())
        return bound

    @property
    def attributes(self) -> list[str]:
        """Item attributes whose codes the loss reads from the batch."""
        return []

    @property
    def user_attribute(self) -> str | None:
        """The attribute of users whose groups the loss reads."""
        fair = getattr(self.options, "user_fairness", None)
        return None if fair is None else fair.field

    @property
    def needs_embeddings(self) -> bool:
        """Whether the loss reads the frozen token embeddings."""
        return False

    @property
    def reads_whole_slates(self) -> bool:
        """Whether the loss reads what priors say of the candidates that a training step leaves out."""
        return False

    @property
    def lower_bound(self) -> float:
        """A lower bound of the loss: methods that compare losses read how far above it they are."""
        return 0.0

    @abstractmethod
    def loss(self, step: Step) -> torch.Tensor:
        """This process's share of the global loss: a float32 scalar whose mean over processes is the global loss."""


class ListwiseObjective(Objective):
    """An objective on the exposure of a slate: loss = J(π) + β·KL(π ‖ π₀), π₀ the exposure of pure relevance."""

    kind = "listwise"
    options: ListwiseConfig

    def loss(self, step: Step) -> torch.Tensor:
        exposure = Exposure.of(step, self.name, self.options.temperature)
        pull = exposure.mean(step, exposure.kl_S())
        return self.goal(step, exposure) + self.options.beta * pull

    @abstractmethod
    def goal(self, step: Step, exposure: "Exposure") -> torch.Tensor:
        """This process's share of J(π)."""


@dataclass(frozen=True)
class Exposure:
    """π = softmax((r + δ) / τ) over each slate, and what it would be without δ.

    Attributes:
        log_pi_SM, log_reference_SM: log π and log π₀, 0 at empty positions.
        filled_SM: bool, where a position holds a candidate.
        candidates_SM: int64, its number in the batch, 0 at empty positions.
        weight_S: how much each slate counts, float32; None where all count alike.
    """

    log_pi_SM: torch.Tensor
    log_reference_SM: torch.Tensor
    filled_SM: torch.Tensor
    candidates_SM: torch.Tensor
    weight_S: torch.Tensor | None = None

    @staticmethod
    def of(step: Step, name: str, temperature: float) -> "Exposure":
        """The exposure that objective `name` asks for in this batch."""
        index = step.batch.slate_candidates
        filled, index = index >= 0, index.clamp(min=0)
        relevance = step.relevance()

        def log_softmax(utility_N: torch.Tensor) -> torch.Tensor:
            utility_SM = (utility_N / temperature)[index].masked_fill(~filled, -torch.inf)
            return utility_SM.log_softmax(dim=1).masked_fill(~filled, 0.0)

        log_pi, log_reference = log_softmax(relevance + step.outputs[name]), log_softmax(relevance)
        return Exposure(log_pi, log_reference, filled, index, slate_weights(step.batch))

    @property
    def pi_SM(self) -> torch.Tensor:
        """π, 0 at empty positions."""
        return self.log_pi_SM.exp() * self.filled_SM

    def kl_S(self) -> torch.Tensor:
        """KL(π ‖ π₀) of each slate, in nats."""
        return (self.pi_SM * (self.log_pi_SM - self.log_reference_SM)).sum(1)

    def mean(self, step: Step, values_S: torch.Tensor) -> torch.Tensor:
        """This process's share of the mean over the slates of the global batch, each counting by its weight."""
        counted_S = values_S if self.weight_S is None else values_S * self.weight_S
        return step.world.scale_to_global_mean(counted_S.sum(), step.totals.slates)

    def by_group(self, weights_SM: torch.Tensor, codes_N: torch.Tensor, groups: int) -> torch.Tensor:
        """Σ of weights over the candidates of each group, (G,); each slate counts by its own weight as well."""
        weights_SM = weights_SM if self.weight_S is None else weights_SM * self.weight_S[:, None].to(weights_SM.dtype)
        kept_SM = torch.where(self.filled_SM, weights_SM, 0.0)
        return kept_SM.new_zeros(groups).index_add(0, codes_N[self.candidates_SM].flatten(), kept_SM.flatten())


class _KnownGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, value: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(slope)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None


def with_gradient(x: torch.Tensor, value: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """A scalar function of x whose value and gradient, of the shape of x, have been computed together."""
    return _KnownGradient.apply(x, value, slope)


def _averaged(before: torch.Tensor | None, now: torch.Tensor, momentum: float) -> tuple[torch.Tensor, torch.Tensor]:
    # Of what has never been finite nothing is known: NaN, which the first finite value replaces.
    base = torch.full_like(now, torch.nan) if before is None else before
    started = torch.where(torch.isfinite(base), base, now)
    finite = torch.isfinite(now).all()
    kept = torch.where(finite, momentum * started + (1 - momentum) * now, base)
    return kept, torch.where(finite, kept, now)


averaged = operation(
    "averaged(Tensor? before, Tensor now, float momentum) -> (Tensor, Tensor)",
    _averaged,
    lambda before, now, momentum: (torch.empty_like(now), torch.empty_like(now)),
    kernels=2,
)
"""What is kept of an average, and what is taken for it now, where that differs: not finite."""


def move_average(state: dict[str, torch.Tensor], key: str, now: torch.Tensor, momentum: float) -> torch.Tensor:
    """The moving average of a global quantity, without gradient.

    The first value starts the average. `state[key]` is updated in place of the old one, but never by a value that is
    not finite: one bad batch would spoil every later one.
    """
    before = state.get(key)
    state[key], average = averaged(None if before is None else before.to(now), now.detach(), momentum)
    return average


def moving_average(state: dict[str, torch.Tensor], key: str, now: torch.Tensor, momentum: float) -> torch.Tensor:
    """`move_average` with the gradient of the present value in full."""
    return now + (move_average(state, key, now, momentum) - now.detach())

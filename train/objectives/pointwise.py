"""Point-wise objectives on any column: yes or no over the entire space, values and counts where they were observed.

Unclicked candidates are sampled, clicked ones are not. A chain that begins with the click corrects for that in the
click's logit (King & Zeng 2001, prior correction); any other loss weighs unclicked candidates by 1 / keep rate.
"""

from collections.abc import Mapping
from typing import Self

import torch
from torch.nn.functional import huber_loss, logsigmoid, softplus

from equipoise.common.link import Link
from equipoise.configs.objectives import PriorsConfig, ValueConfig
from equipoise.modeling.operations import operation
from equipoise.train.objectives.base import USER, Objective, Step, with_gradient
from equipoise.train.objectives.user_fairness import group_weights

CLICK = "click"
"""The label by which candidates are sampled."""


def log1m_product(*logits: torch.Tensor) -> torch.Tensor:
    """log(1 − Π σ(a_i)); nothing is subtracted, so neither value nor gradient is lost where the product nears 1."""
    first, *rest = logits
    if not rest:
        return logsigmoid(-first)
    # 1 − σ(a)·p = σ(−a) + σ(a)·(1 − p)
    return torch.logaddexp(logsigmoid(-first), logsigmoid(first) + log1m_product(*rest))


def as_shown(logit_N: torch.Tensor, examination_N: torch.Tensor | None) -> torch.Tensor:
    """The logit of e · σ(logit), a click at a place that is looked at with probability e; without places as it is."""
    if examination_N is None:
        return logit_N
    # e σ(a) / (1 − e σ(a)) = e / (exp(−a) + 1 − e)
    return torch.log(examination_N) - torch.logaddexp(-logit_N, torch.log1p(-examination_N))


def _slope_of_shown(logit_N: torch.Tensor, examination_N: torch.Tensor) -> torch.Tensor:
    return (-logit_N - torch.logaddexp(-logit_N, torch.log1p(-examination_N))).exp()


class Binary(Objective):
    """BCE of the product of the chain's probabilities against all of its labels, over all candidates (ESMM, Ma 2018).

    Without `given` that is the plain cross-entropy of its own label. The other probabilities of the chain are read
    without gradient, so that it stays in this objective's own tower. With `user_fairness` groups of users that are
    foretold worse count more (train/objectives/user_fairness.py).
    """

    options: PriorsConfig
    user_groups: int = 0

    def bind(self, groups: Mapping[str, int], links: Mapping[str, Link]) -> Self:
        """The same objective with the number of its groups of users."""
        bound = super().bind(groups, links)
        if self.user_attribute is not None:
            bound.user_groups = groups[f"{USER}{self.user_attribute}"]
        return bound

    def loss(self, step: Step) -> torch.Tensor:
        """Mean BCE in nats: per sampled candidate where the chain begins with the click, else per impression."""
        return self.entire_space(step)

    def entire_space(self, step: Step) -> torch.Tensor:
        """The loss of the whole chain."""
        links = [*self.before, self.spec]
        own_N = step.outputs[self.name]
        logits = [step.outputs[spec.name].detach() for spec in self.before] + [own_N.detach()]
        labels = [step.label(spec.label) for spec in links]
        sampled = links[0].label == CLICK
        shift_N = step.batch.log_sampling_rate if sampled else None
        seen_N = step.batch.examination if sampled else None
        counted_N = step.batch.weight if sampled else step.importance_weights()
        fair = self.options.user_fairness
        if fair is not None:
            loss_N, label_N = _chain(_shifted(logits, shift_N, seen_N), labels)[:2]
            counted_N = torch.ones_like(loss_N) if counted_N is None else counted_N
            rows = (counted_N, loss_N, label_N)
            counted_N = counted_N * group_weights(fair, self.state, step, *rows, self.user_groups)
        total = torch.as_tensor(step.totals.candidates if sampled else step.totals.impressions, device=own_N.device)
        found = entire_space_loss(logits, labels, shift_N, seen_N, counted_N, total, step.world.size)
        return with_gradient(own_N, *found)


def log_product(*logits: torch.Tensor) -> torch.Tensor:
    """log Π σ(a_i)."""
    total = logsigmoid(logits[0])
    for logit_N in logits[1:]:
        total = total + logsigmoid(logit_N)
    return total


def chain_loss(logits: list[torch.Tensor], label_N: torch.Tensor) -> torch.Tensor:
    """BCE of Π σ(logit) against the label, float32 (N,), in log space."""
    return -(label_N * log_product(*logits) + (1 - label_N) * log1m_product(*logits))


def _shifted(
    logits: list[torch.Tensor], shift_N: torch.Tensor | None, examination_N: torch.Tensor | None
) -> list[torch.Tensor]:
    shown_N = as_shown(logits[0], examination_N)
    return [shown_N if shift_N is None else shown_N - shift_N, *logits[1:]]


def _chain(logits: list[torch.Tensor], labels: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """BCE of Π σ(logit) against Π label in log space, that product, and the loss's slope by the last logit; (N,)."""
    # A label that is missing is one that was not observed: the chain broke off before it.
    label_N = labels[0].nan_to_num()
    for label in labels[1:]:
        label_N = label_N * label.nan_to_num()
    log_p_N, log_not_N, broken_N = log_product(*logits), log1m_product(*logits), logsigmoid(-logits[-1])
    loss_N = -(label_N * log_p_N + (1 - label_N) * log_not_N)
    slope_N = (1 - label_N) * (log_p_N - log_not_N + broken_N).exp() - label_N * broken_N.exp()
    return loss_N, label_N, slope_N


def _entire_space_loss(
    logits: list[torch.Tensor],
    labels: list[torch.Tensor],
    shift_N: torch.Tensor | None,
    examination_N: torch.Tensor | None,
    counted_N: torch.Tensor | None,
    total: torch.Tensor,
    size: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    loss_N, _, slope_N = _chain(_shifted(logits, shift_N, examination_N), labels)
    if examination_N is not None and len(logits) == 1:  # the one logit is that of the click itself
        slope_N = slope_N * _slope_of_shown(logits[0], examination_N)
    if counted_N is not None:
        loss_N, slope_N = loss_N * counted_N, slope_N * counted_N
    return loss_N.sum() * size / total, slope_N * size / total


entire_space_loss = operation(
    "entire_space_loss(Tensor[] logits, Tensor[] labels, Tensor? shift, Tensor? examination, Tensor? counted,"
    " Tensor total, int size) -> (Tensor, Tensor)",
    _entire_space_loss,
    lambda logits, *rest: (logits[0].new_empty(()), torch.empty_like(logits[-1])),
    kernels=2,
)
"""The loss of a chain over all candidates, weighted and divided by the total, and its gradient by the last logit."""


class Observed(Objective):
    """A loss on the candidates whose label was observed: those where all labels of the chain are 1."""

    def loss(self, step: Step) -> torch.Tensor:
        """Mean loss per observed impression of the global batch; 0 where there is none."""
        label_N = step.label(self.spec.label)
        observed_N = torch.isfinite(label_N)
        for spec in self.before:
            observed_N = observed_N & (step.label(spec.label) == 1)
        weight_N = torch.where(observed_N, step.importance_weights(), 0.0)
        counted_N = weight_N if step.self_normalize else torch.where(observed_N, step.sampling_weights(), 0.0)
        error_N = self.error(step.outputs[self.name], torch.where(observed_N, label_N, 0.0))
        count = step.world.sum(counted_N.sum()).clamp(min=torch.finfo(weight_N.dtype).tiny)
        return step.world.scale_to_global_mean((weight_N * error_N).sum(), count)

    def error(self, output_N: torch.Tensor, label_N: torch.Tensor) -> torch.Tensor:
        """The loss of each candidate, (N,), at least 0."""
        raise NotImplementedError


class Value(Observed):
    """Huber's loss (Huber 1964, threshold: one standard deviation) or half the squared error of the scaled label."""

    options: ValueConfig

    def error(self, output_N: torch.Tensor, label_N: torch.Tensor) -> torch.Tensor:
        predicted_N = softplus(output_N) if self.spec.positive else output_N
        scaled_N = label_N / self.link.scale
        if self.options.loss == "huber":
            return huber_loss(predicted_N, scaled_N, reduction="none")
        return 0.5 * (predicted_N - scaled_N) ** 2


class Count(Observed):
    """Half of Poisson's deviance, y log(y / μ) − (y − μ), μ = exp(output): the likelihood, moved so that 0 is least."""

    def error(self, output_N: torch.Tensor, label_N: torch.Tensor) -> torch.Tensor:
        return torch.xlogy(label_N, label_N) - label_N * output_N - label_N + output_N.exp()

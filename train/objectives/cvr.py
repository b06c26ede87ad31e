"""Conversion after click, learnt over the entire space of impressions."""

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, softplus

from equipoise.configs.objectives import CvrConfig
from equipoise.train.objectives.base import Objective, Step


def log1m_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """log(1 − σ(a)·σ(b)); nothing is subtracted, so neither value nor gradient is lost where the product nears 1."""
    return torch.logaddexp(logsigmoid(-a), logsigmoid(a) + logsigmoid(-b))  # 1 − σ(a)σ(b) = σ(−a) + σ(a)σ(−b)


class Cvr(Objective):
    """pCVR by one of three estimators, all over every impression; pCTR is read without gradient.

    - `esmm` (Ma et al. 2018): BCE of pCTR·pCVR against click∧conversion.
    - `ips` (ESCM², Wang et al. 2022, eq. 7): BCE on clicked impressions weighted by 1/pCTR.
    - `dr` (ESCM², eq. 9–10): doubly robust, with an imputed error from a second output of the head.

    The gradient stays in this objective's own tower: a cotangent at the boundary must be that of one objective.
    """

    options: CvrConfig

    def __init__(self, name: str, options: CvrConfig) -> None:
        super().__init__(name, options)
        self.outputs = 2 if options.estimator == "dr" else 1

    def loss(self, step: Step) -> torch.Tensor:
        """Mean loss in nats: per sampled candidate for `esmm`, per impression for `ips` and `dr`."""
        if self.options.estimator == "esmm":
            return step.world.scale_to_global_mean(self._entire_space(step).sum(), step.totals.candidates)
        return step.world.scale_to_global_mean(self._propensity_weighted(step).sum(), step.totals.impressions)

    def _entire_space(self, step: Step) -> torch.Tensor:
        # Unclicked candidates are sampled, clicked ones are not, so pCVR is the same in the sample and only pCTR moves.
        click_logit_N = step.outputs["ctr"].detach() - step.batch.log_sampling_rate
        logit_N = step.outputs[self.name]
        label_N = step.batch.click * step.batch.conversion
        log_p_N = logsigmoid(click_logit_N) + logsigmoid(logit_N)
        return -(label_N * log_p_N + (1 - label_N) * log1m_product(click_logit_N, logit_N))

    def _propensity_weighted(self, step: Step) -> torch.Tensor:
        batch = step.batch
        propensity_N = step.outputs["ctr"].detach().sigmoid().clamp(min=self.options.min_propensity)
        observed_N = batch.click / propensity_N
        error_N = binary_cross_entropy_with_logits(step.outputs[self.name], batch.conversion, reduction="none")
        if self.options.estimator == "ips":
            return observed_N * error_N
        importance_weight_N = torch.where(batch.click > 0, 1.0, torch.exp(-batch.log_sampling_rate))
        imputed_N = softplus(step.outputs[f"{self.name}.1"])
        doubly_robust_N = importance_weight_N * imputed_N + observed_N * (error_N - imputed_N)
        imputation_N = observed_N * (error_N.detach() - imputed_N) ** 2
        return doubly_robust_N + imputation_N

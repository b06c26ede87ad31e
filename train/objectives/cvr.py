"""Conversion after click, learnt over the entire space of impressions."""

from collections.abc import Mapping

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from equipoise.configs.objective_spec import ObjectiveSpec
from equipoise.configs.objectives import CvrConfig
from equipoise.train.objectives.base import Step
from equipoise.train.objectives.pointwise import Binary


class Cvr(Binary):
    """pCVR by one of three estimators, all over every impression; pCTR is read without gradient.

    - `esmm` (Ma et al. 2018): BCE of pCTR·pCVR against click∧conversion.
    - `ips` (ESCM², Wang et al. 2022, eq. 7): BCE on clicked impressions weighted by 1/pCTR.
    - `dr` (ESCM², eq. 9–10): doubly robust, with an imputed error from a second output of the head.

    The gradient stays in this objective's own tower: a cotangent at the boundary must be that of one objective.
    """

    options: CvrConfig

    def __init__(self, name: str, options: CvrConfig, specs: Mapping[str, ObjectiveSpec] | None = None) -> None:
        super().__init__(name, options, specs)
        self.outputs = 2 if options.estimator == "dr" else 1

    def loss(self, step: Step) -> torch.Tensor:
        """Mean loss in nats: per sampled candidate for `esmm`, per impression for `ips` and `dr`."""
        if self.options.estimator == "esmm":
            return self.entire_space(step)
        return step.world.scale_to_global_mean(self._propensity_weighted(step).sum(), step.totals.impressions)

    def _propensity_weighted(self, step: Step) -> torch.Tensor:
        batch = step.batch
        propensity_N = step.outputs[self.before[0].name].detach().sigmoid().clamp(min=self.options.min_propensity)
        observed_N = step.weigh(batch.click / propensity_N)
        error_N = binary_cross_entropy_with_logits(step.outputs[self.name], batch.conversion, reduction="none")
        if self.options.estimator == "ips":
            return observed_N * error_N
        imputed_N = softplus(step.outputs[f"{self.name}.1"])
        doubly_robust_N = step.importance_weights() * imputed_N + observed_N * (error_N - imputed_N)
        imputation_N = observed_N * (error_N.detach() - imputed_N) ** 2
        return doubly_robust_N + imputation_N

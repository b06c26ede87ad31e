"""Relevance r = Σ v_j log p_j of a run's formula over the outputs of a model."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.nn.functional import logsigmoid, softplus

from equipoise.common.link import FAR, Link


def log_of(link: Link, output: torch.Tensor) -> torch.Tensor:
    """log of the number that an output stands for, of its shape.

    Raises:
        ValueError: that number need not be above 0.
    """
    if link.name == "sigmoid":
        return logsigmoid(output)
    if link.name == "identity":
        raise ValueError("a value that may be negative has no logarithm")
    if link.name == "softplus":
        output = torch.where(output > FAR, softplus(output).clamp(min=1e-30).log(), output)
    return output + math.log(link.scale) if link.scale != 1 else output


class Relevance:
    """r of candidates, by the exponents of a formula.

    Args:
        exponents: pointwise objective → v; one that is not named does not count.
        links: of the objectives; one that is not named gives a probability.
    """

    def __init__(self, exponents: Mapping[str, float], links: Mapping[str, Link] | None = None) -> None:
        self.exponents, self.links = dict(exponents), dict(links or {})

    def __call__(self, outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """r without gradient, float32 (N,)."""
        total: torch.Tensor | None = None
        for name, exponent in self.exponents.items():
            log = log_of(self.links.get(name, Link()), outputs[name].detach())
            term = log if exponent == 1 else exponent * log
            total = term if total is None else total + term
        assert total is not None, "a formula has at least one term"
        return total

    @staticmethod
    def read(
        exponents: Mapping[str, float], links: Mapping[str, Mapping[str, Any]], pointwise: Iterable[str]
    ) -> "Relevance":
        """From what adapters or exports record of it; without exponents Σ log p over the pointwise objectives."""
        known = {name: Link.of(links.get(name)) for name in pointwise}
        return Relevance(exponents or dict.fromkeys(known, 1.0), known)

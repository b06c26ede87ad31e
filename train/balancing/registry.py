"""Methods by name; see docs/balancing.md for which to choose."""

from collections.abc import Callable
from functools import partial
from typing import Any

from equipoise.configs.balancing import TORCHJD, BalancingConfig
from equipoise.train.balancing.common_directions import aligned, cagrad, fairgrad, imtl_g, mgda, nash
from equipoise.train.balancing.conflict_projections import Gradvac, dualproj, pcgrad, upgrad
from equipoise.train.balancing.gradient_stats import StatelessWeighting, Weighting
from equipoise.train.balancing.loss_weightings import Dwa, Famo, Gradnorm, Uncertainty, rlw, stch, weighted
from equipoise.train.balancing.priorities import EpsilonConstraint, Pcd, lexicographic, pe_ltr
from equipoise.train.balancing.torchjd_method import TorchJD

METHODS: dict[str, Callable[[Any], Weighting]] = {
    "weighted": lambda options: StatelessWeighting(weighted),
    "mgda": lambda options: StatelessWeighting(mgda),
    "pcgrad": lambda options: StatelessWeighting(pcgrad),
    "gradvac": Gradvac,
    "lexicographic": lambda options: StatelessWeighting(
        partial(lexicographic, order=options.order, tolerance=options.tolerance)
    ),
    "pcd": Pcd,
    "epsilon_constraint": EpsilonConstraint,
    "uncertainty": Uncertainty,
    "dwa": Dwa,
    "rlw": lambda options: StatelessWeighting(rlw),
    "famo": Famo,
    "stch": lambda options: StatelessWeighting(partial(stch, mu=options.mu)),
    "gradnorm": Gradnorm,
    "upgrad": lambda options: StatelessWeighting(upgrad),
    "dualproj": lambda options: StatelessWeighting(dualproj),
    "cagrad": lambda options: StatelessWeighting(partial(cagrad, c=options.c)),
    "nash": lambda options: StatelessWeighting(nash),
    "fairgrad": lambda options: StatelessWeighting(partial(fairgrad, alpha=options.alpha)),
    "imtl_g": lambda options: StatelessWeighting(imtl_g),
    "aligned": lambda options: StatelessWeighting(aligned),
    "pe_ltr": lambda options: StatelessWeighting(partial(pe_ltr, floor=options.floor)),
}
"""Name → from the method's options (its class in `equipoise.configs.balancing`) to the method."""


def build_method(config: BalancingConfig) -> Weighting:
    """The configured method, with fresh state."""
    if config.method.startswith(TORCHJD):
        return TorchJD(config.method.removeprefix(TORCHJD), config.options)
    return METHODS[config.method](config.typed_options())

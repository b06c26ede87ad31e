"""Methods by name; see docs/balancing.md for which to choose."""

from collections.abc import Callable
from functools import partial
from typing import Any

from equipoise.configs.balancing import TORCHJD, BalancingConfig
from equipoise.train.balancing.aligned import aligned
from equipoise.train.balancing.cagrad import cagrad
from equipoise.train.balancing.dualproj import dualproj
from equipoise.train.balancing.dwa import Dwa
from equipoise.train.balancing.epsilon_constraint import EpsilonConstraint
from equipoise.train.balancing.fairgrad import fairgrad
from equipoise.train.balancing.famo import Famo
from equipoise.train.balancing.gradnorm import Gradnorm
from equipoise.train.balancing.gradvac import Gradvac
from equipoise.train.balancing.imtl_g import imtl_g
from equipoise.train.balancing.lexicographic import lexicographic
from equipoise.train.balancing.mgda import mgda
from equipoise.train.balancing.nash import nash
from equipoise.train.balancing.pcd import Pcd
from equipoise.train.balancing.pcgrad import pcgrad
from equipoise.train.balancing.pe_ltr import pe_ltr
from equipoise.train.balancing.problem import Method, Stateless
from equipoise.train.balancing.rlw import rlw
from equipoise.train.balancing.stch import stch
from equipoise.train.balancing.torchjd_method import TorchJD
from equipoise.train.balancing.uncertainty import Uncertainty
from equipoise.train.balancing.upgrad import upgrad
from equipoise.train.balancing.weighted import weighted

METHODS: dict[str, Callable[[Any], Method]] = {
    "weighted": lambda options: Stateless(weighted),
    "mgda": lambda options: Stateless(mgda),
    "pcgrad": lambda options: Stateless(pcgrad),
    "gradvac": Gradvac,
    "lexicographic": lambda options: Stateless(
        partial(lexicographic, order=options.order, tolerance=options.tolerance)
    ),
    "pcd": Pcd,
    "epsilon_constraint": EpsilonConstraint,
    "uncertainty": Uncertainty,
    "dwa": Dwa,
    "rlw": lambda options: Stateless(rlw),
    "famo": Famo,
    "stch": lambda options: Stateless(partial(stch, mu=options.mu)),
    "gradnorm": Gradnorm,
    "upgrad": lambda options: Stateless(upgrad),
    "dualproj": lambda options: Stateless(dualproj),
    "cagrad": lambda options: Stateless(partial(cagrad, c=options.c)),
    "nash": lambda options: Stateless(nash),
    "fairgrad": lambda options: Stateless(partial(fairgrad, alpha=options.alpha)),
    "imtl_g": lambda options: Stateless(imtl_g),
    "aligned": lambda options: Stateless(aligned),
    "pe_ltr": lambda options: Stateless(partial(pe_ltr, floor=options.floor)),
}
"""Name → from the method's options (its class in `equipoise.configs.balancing`) to the method."""


def build_method(config: BalancingConfig) -> Method:
    """The configured method, with fresh state."""
    if config.method.startswith(TORCHJD):
        return TorchJD(config.method.removeprefix(TORCHJD), config.options)
    return METHODS[config.method](config.typed_options())

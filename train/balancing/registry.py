"""Methods by name; see docs/balancing.md for which to choose."""

from collections.abc import Callable
from functools import partial
from typing import Any

from configs.balancing import TORCHJD, BalancingConfig
from train.balancing.aligned import aligned
from train.balancing.cagrad import cagrad
from train.balancing.dualproj import dualproj
from train.balancing.dwa import Dwa
from train.balancing.epsilon_constraint import EpsilonConstraint
from train.balancing.fairgrad import fairgrad
from train.balancing.famo import Famo
from train.balancing.gradnorm import Gradnorm
from train.balancing.gradvac import Gradvac
from train.balancing.imtl_g import imtl_g
from train.balancing.lexicographic import lexicographic
from train.balancing.mgda import mgda
from train.balancing.nash import nash
from train.balancing.pcd import Pcd
from train.balancing.pcgrad import pcgrad
from train.balancing.pe_ltr import pe_ltr
from train.balancing.problem import Method, Stateless
from train.balancing.rlw import rlw
from train.balancing.stch import stch
from train.balancing.torchjd_method import TorchJD
from train.balancing.uncertainty import Uncertainty
from train.balancing.upgrad import upgrad
from train.balancing.weighted import weighted

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
"""Name → from the method's options (its class in `configs.balancing`) to the method."""


def build_method(config: BalancingConfig) -> Method:
    """The configured method, with fresh state."""
    if config.method.startswith(TORCHJD):
        return TorchJD(config.method.removeprefix(TORCHJD), config.options)
    return METHODS[config.method](config.typed_options())

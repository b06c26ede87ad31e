"""Methods by name; see docs/balancing.md for which to choose."""

from collections.abc import Callable
from typing import Any

from configs.balancing import BalancingConfig
from train.balancing.mgda import mgda
from train.balancing.pcgrad import pcgrad
from train.balancing.problem import Method, Stateless
from train.balancing.weighted import weighted

METHODS: dict[str, Callable[[Any], Method]] = {
    "weighted": lambda options: Stateless(weighted),
    "mgda": lambda options: Stateless(mgda),
    "pcgrad": lambda options: Stateless(pcgrad),
}
"""Name → from the method's options (its class in `configs.balancing`) to the method."""


def build_method(config: BalancingConfig) -> Method:
    """The configured method, with fresh state."""
    return METHODS[config.method](config.typed_options())

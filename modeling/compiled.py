"""Layers compiled one by one: all layers of a backbone share their code, so what is compiled once is used by all."""

from collections.abc import Iterable

import torch
from torch import nn

VARIANTS = 64
"""Compiled forms that one layer's code may have: each adapter, with and without gradients, prefixes and candidates."""


BACKEND = "inductor"


def compile_layers(layers: Iterable[nn.Module]) -> None:
    """Compile each layer in place for any number of tokens; compiling itself happens at the first calls.

    The prefix-split attention is left out of the compiled regions (it decides by the layout of the batch), and so is
    what recomputes activations.
    """
    torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)
    for layer in layers:
        layer.compile(dynamic=True, backend=BACKEND)

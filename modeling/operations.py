"""Operations of our own: written once in plain lines, which run on the CPU and are compiled into kernels on a GPU."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

LIBRARY = torch.library.Library("equipoise", "DEF")
KERNELS: dict[str, int] = {}
"""Operation → kernels that it is compiled into, where that is more than one."""


def operation(schema: str, written: Callable[..., Any], shapes: Callable[..., Any], kernels: int = 1) -> Any:
    """Register an operation.

    Args:
        schema: with its name.
        written: what it computes, in plain operations.
        shapes: what it gives for tensors without values.
        kernels: into how many it is compiled, as Inductor counts them for a CPU, which joins no fewer than for a GPU.
    """
    name = schema.partition("(")[0]

    @cache
    def compiled() -> Callable[..., Any]:
        return torch.compile(written, dynamic=True, fullgraph=True)

    LIBRARY.define(schema)
    LIBRARY.impl(name, written, "CPU")
    LIBRARY.impl(name, lambda *arguments: compiled()(*arguments), "CUDA")
    LIBRARY.impl(name, shapes, "Meta")
    KERNELS[name] = kernels
    return getattr(torch.ops.equipoise, name).default

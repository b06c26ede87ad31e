"""What to say when memory runs out: which three settings to change, in the order that costs least."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from equipoise.common.errors import UserError
from equipoise.configs.schema import RunConfig

CPU_WORDS = ("DefaultCPUAllocator", "can't allocate memory")

Phase = Literal["training", "evaluation", "scoring"]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in CPU_WORDS)


def advice(config: RunConfig, phase: Phase) -> str:
    """One sentence: the settings to change, with their present values, and the command that estimates."""
    batch = _batch(config) if phase == "training" else _halved("evaluate.max_tokens", config.evaluate.max_tokens)
    activations = _activations(config) if phase == "training" else "tokens.max_row lower"
    where = "the GPU's memory" if torch.cuda.is_available() else "memory"
    return (
        f"{where} ran out in {phase}: set {batch}, or {activations}, or {_base(config)}; "
        "`equipoise estimate CONFIG` tells what each of them takes"
    )


@contextmanager
def memory_advice(config: RunConfig, phase: Phase) -> Iterator[None]:
    """Turn an out-of-memory error of the block into advice.

    Raises:
        UserError: memory ran out.
    """
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(advice(config, phase)) from error


def _halved(key: str, value: int) -> str:
    return f"{key}={max(1, value // 2)} (now {value})"


def _batch(config: RunConfig) -> str:
    budget = config.train.token_budget
    if budget is not None:
        return _halved("train.max_tokens", budget)
    assert config.train.batch_size is not None, "one of the two is always set"
    return _halved("train.batch_size", config.train.batch_size)


def _activations(config: RunConfig) -> str:
    if not config.backbone.checkpointing:
        return "backbone.checkpointing=true"
    if config.train.negatives is not None and config.train.negatives > 1:
        return _halved("train.negatives", config.train.negatives)
    return _halved("tokens.max_candidate", config.tokens.max_candidate)


def _base(config: RunConfig) -> str:
    if config.backbone.quantize is None:
        return "backbone.quantize=4bit (or launch with ZeRO-3, which spreads the base over the GPUs)"
    return "a smaller backbone.path"

"""Random draws of settings: the same for the same seed, whatever else is drawn."""

import math
from typing import Any

import numpy as np

from equipoise.sweep.config import DrawConfig, RandomConfig

DIGITS = 4


def draw_settings(random: RandomConfig) -> list[dict[str, Any]]:
    """`random.count` draws of every key, in order; draws that repeat an earlier one are left out."""
    streams = {
        key: draw_values(draw, np.random.default_rng([random.seed, *key.encode()]), random.count)
        for key, draw in random.draw.items()
    }
    draws = [dict(zip(streams, values, strict=True)) for values in zip(*streams.values(), strict=True)]
    return [draw for number, draw in enumerate(draws) if draw not in draws[:number]]


def draw_values(draw: DrawConfig, rng: np.random.Generator, count: int) -> list[Any]:
    """`count` values; real numbers have DIGITS significant digits, so that a run's name tells them exactly."""
    if draw.choice is not None:
        return [draw.choice[int(rng.integers(len(draw.choice)))] for _ in range(count)]
    if draw.integers is not None:
        return [int(rng.integers(draw.integers[0], draw.integers[1] + 1)) for _ in range(count)]
    if draw.log_uniform is not None:
        low, high = draw.log_uniform
        return [_rounded(math.exp(rng.uniform(math.log(low), math.log(high))), low, high) for _ in range(count)]
    assert draw.uniform is not None, "the schema sets one of the four"
    low, high = draw.uniform
    return [_rounded(rng.uniform(low, high), low, high) for _ in range(count)]


def _rounded(value: float, low: float, high: float) -> float:
    return min(max(float(f"{value:.{DIGITS}g}"), low), high)

"""Who takes turns with whom, and how many impressions each treats in a turn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.figures import take_turns


@dataclass(frozen=True)
class Contender:
    """What is timed: a training step, or the scoring of a batch, of `impressions` user-item pairs."""

    run: Callable[[], object]
    impressions: int


def seconds_per_impression(contenders: Mapping[str, Contender], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each by name, taking turns, divided by its own impressions: float64 (rounds,)."""
    seconds = take_turns({name: contender.run for name, contender in contenders.items()}, rounds)
    return {name: values / contenders[name].impressions for name, values in seconds.items()}

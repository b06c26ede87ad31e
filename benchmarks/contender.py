"""Who is timed alternately with whom, by impression, and the exponent of a power law in what was measured."""

from collections.abc import Callable, Mapping, Sequence
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


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The slope of log y against log x, by least squares over all points; 1 where y is proportional to x.

    Raises:
        ValueError: fewer than two different x, or a value that is not positive.
    """
    abscissa, ordinate = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(set(abscissa)) < 2 or not (abscissa > 0).all() or not (ordinate > 0).all():
        raise ValueError("an exponent needs two different x at least, and positive values")
    return float(np.polyfit(np.log(abscissa), np.log(ordinate), 1)[0])

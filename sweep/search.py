"""The next draws of a sweep with several goals, from the results of the earlier ones: ParEGO (Knowles 2006).

Each proposal weighs the goals by weights of its own, drawn at random, joins them by the augmented Chebyshev function,
fits a Gaussian process to that, and takes the draw of the largest expected improvement. So proposals spread over the
whole front, and every one can be made again from the same results.
"""

import json
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.sweep.config import DrawConfig, RandomConfig, SweepConfig
from equipoise.sweep.plan import digest, draw_values

FILE_NAME = "search.json"
AUGMENTATION = 0.05
"""Weight of the sum beside the largest goal, so that no goal is given away for nothing."""
FRESH, NEAR = 512, 256
"""Candidates of a proposal: drawn anew, and earlier draws with one key drawn anew."""
LEAST_KNOWN = 2


def draws_of(sweep: SweepConfig, proposed: Sequence[dict[str, Any]], drawn: Sequence[dict[str, Any]]) -> list[dict]:
    """The draws of a search so far: the first ones are independent, the others were proposed."""
    return [*drawn[: first_draws(sweep)], *proposed]


def first_draws(sweep: SweepConfig) -> int:
    """How many draws are made before the first proposal."""
    assert sweep.search is not None and sweep.random is not None
    return min(sweep.random.count, sweep.search.start or max(4, 2 * len(sweep.random.draw)))


def propose(
    random: RandomConfig, tried: Sequence[dict[str, Any]], values: np.ndarray, number: int
) -> dict[str, Any] | None:
    """The draw to try next.

    Args:
        random: the keys, from what their values are drawn, and the seed.
        tried: earlier draws, those without results among them.
        values: float64 (tried, goals), larger is better; NaN of draws without results.
        number: of the proposal, from 0, which settles its random numbers.

    Returns:
        None where every draw that could be found has been tried.
    """
    rng = np.random.default_rng([random.seed, number, *b"search"])
    known = np.isfinite(values).all(axis=1)
    candidates = _candidates(random, [draw for draw, has in zip(tried, known, strict=True) if has], tried, rng)
    if not candidates:
        return None
    if known.sum() < LEAST_KNOWN:
        return candidates[0]
    cost = _joined(values[known], rng)
    points = np.array([encode(random, draw) for draw, has in zip(tried, known, strict=True) if has])
    kernel = ConstantKernel(1.0) * Matern(np.full(points.shape[1], 0.5), (0.05, 10.0), nu=2.5) + WhiteKernel(1e-3)
    process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a length at its bound is a key that does not matter
        process.fit(points, cost)
    mean, deviation = process.predict(np.array([encode(random, draw) for draw in candidates]), return_std=True)
    return candidates[int(np.argmax(_expected_improvement(mean, deviation, cost.min())))]


def _joined(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What is made small, float64 (N,), of goals that are made large, (N, K), under weights that are drawn."""
    low, high = values.min(axis=0), values.max(axis=0)
    costs = (high - values) / np.where(high > low, high - low, 1.0)
    weighted = rng.dirichlet(np.ones(values.shape[1])) * costs
    return weighted.max(axis=1) + AUGMENTATION * weighted.sum(axis=1)


def _expected_improvement(mean: np.ndarray, deviation: np.ndarray, best: float) -> np.ndarray:
    deviation = np.maximum(deviation, 1e-12)
    better = (best - mean) / deviation
    return deviation * (better * norm.cdf(better) + norm.pdf(better))


def _candidates(
    random: RandomConfig, known: Sequence[dict[str, Any]], tried: Sequence[dict[str, Any]], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Draws that were not tried, each once."""
    fresh = {key: draw_values(draw, rng, FRESH + NEAR) for key, draw in random.draw.items()}
    found = [{key: values[n] for key, values in fresh.items()} for n in range(FRESH)]
    for n in range(FRESH, FRESH + NEAR if known else FRESH):
        key = list(fresh)[int(rng.integers(len(fresh)))]
        found.append({**known[int(rng.integers(len(known)))], key: fresh[key][n]})
    seen = {_written(draw) for draw in tried}
    unique = {_written(draw): draw for draw in found}
    return [draw for text, draw in unique.items() if text not in seen]


def _written(draw: dict[str, Any]) -> str:
    return json.dumps(draw, sort_keys=True)


def encode(random: RandomConfig, draw: dict[str, Any]) -> list[float]:
    """A draw as numbers of 0 to 1: numbers between their bounds, choices one-hot."""
    return [number for key, source in random.draw.items() for number in _coordinates(source, draw[key])]


def _coordinates(source: DrawConfig, value: Any) -> list[float]:
    if source.choice is not None:
        return [float(value == each) for each in source.choice]
    if source.log_uniform is not None:
        low, high = map(math.log, source.log_uniform)
        return [(math.log(value) - low) / (high - low)]
    bounds = source.uniform or source.integers
    assert bounds is not None, "the schema sets one of the four"
    return [(value - bounds[0]) / (bounds[1] - bounds[0])]


def read_proposed(sweep: SweepConfig) -> list[dict[str, Any]]:
    """The draws that were proposed so far.

    Raises:
        UserError: they belong to another search, or the file is damaged.
    """
    path = sweep.output / FILE_NAME
    try:
        kept = json.loads(path.read_text("utf-8"))
        if kept["search"] != _mark(sweep):
            raise UserError(
                f"{path} is of a search with other draws or goals: give the sweep another name and output, or take the "
                "change back"
            )
        return kept["proposed"]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read: remove it, and what it proposed is proposed again") from error


def write_proposed(sweep: SweepConfig, proposed: Sequence[dict[str, Any]]) -> None:
    """Keep the draws that were proposed, whole or not at all."""
    sweep.output.mkdir(parents=True, exist_ok=True)
    with atomic_write(sweep.output / FILE_NAME) as partial:
        partial.write_text(json.dumps({"search": _mark(sweep), "proposed": list(proposed)}, indent=1), "utf-8")


def _mark(sweep: SweepConfig) -> str:
    """A hash of what settles the proposals; `count` may grow."""
    assert sweep.search is not None and sweep.random is not None
    settings = sweep.random.model_dump(mode="json", exclude={"count"})
    return digest([settings, sweep.search.model_dump(mode="json"), sweep.seeds])

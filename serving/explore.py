"""Lists drawn with known propensities, so that what they earn tells what other lists would have earned.

A drawn list is Plackett–Luce (common/plackett_luce.py) on the *list utilities*: the utilities of the request, sorted,
and handed out in the order of the ranking. Where lists are sorted by u they are u itself; where places are filled after
each other (docs/lists.md), the candidate at each place gets the utility of that rank. So temperature 0 is the ranking,
and the temperature is in units of u: at 0.5 a candidate that is 0.5 better at a place is e times as likely there.
"""

import hashlib
import itertools
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from equipoise.common.errors import UserError
from equipoise.common.plackett_luce import draw_order, place_log_propensities
from equipoise.serving.ranking import Exploration, Ranking

MOST = 100.0
"""Temperature; above it, lists are as good as shuffled."""


def check_exploration(temperature: float, seed: int | None) -> None:
    """Refuse a temperature that no list can be drawn at.

    Raises:
        UserError: names the option.
    """
    if not 0 <= temperature <= MOST:
        raise UserError(f"--explore {temperature:g} is out of range: give a temperature from 0 (no draws) to {MOST:g}")
    if seed is not None and temperature == 0:
        raise UserError("--explore-seed is of draws, and --explore is 0: set --explore, or leave the seed out")


def make_explorer(temperature: float, seed: int | None) -> "Explorer | None":
    """What draws lists at a temperature; None where lists are the ranking itself.

    Raises:
        UserError: an option makes no sense.
    """
    check_exploration(temperature, seed)
    if temperature == 0:
        return None
    return Explorer(temperature) if seed is None else Explorer(temperature, seed)


@dataclass(frozen=True)
class Explorer:
    """Draws lists.

    Attributes:
        temperature: above 0.
        seed: of all draws; a request with a request_id is drawn alike whenever it comes.
    """

    temperature: float
    seed: int = field(default_factory=lambda: secrets.randbits(63))
    _number: Iterator[int] = field(default_factory=itertools.count, repr=False, compare=False)

    def __call__(self, ranking: Ranking) -> Ranking:
        """The same candidates in a drawn order, each with the propensity of its place."""
        utilities = list_utilities(ranking)
        order = draw_order(utilities, self.temperature, self._rng(ranking.request_id))
        logs = place_log_propensities(utilities, order, self.temperature)
        rank = {int(position): place for place, position in enumerate(order)}
        given = tuple(
            replace(scored, rank=rank[position] + 1, propensity=float(np.exp(logs[rank[position]])), place={})
            for position, scored in enumerate(ranking.given)
        )
        shown = len(order) if ranking.top is None else min(ranking.top, len(order))
        drawn = Exploration(self.temperature, float(logs[:shown].sum()), tuple(utilities.tolist()))
        return replace(ranking, given=given, exploration=drawn)

    def _rng(self, request_id: str | None) -> np.random.Generator:
        # Without a name, requests are told apart by their number.
        name = f"number {next(self._number)}" if request_id is None else f"request {request_id}"
        digest = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big")))


def list_utilities(ranking: Ranking) -> np.ndarray:
    """The utility that each candidate's place in the ranking stands for, float64 (C,), as the candidates were given."""
    utility = np.array([scored.utility for scored in ranking.given], np.float64)
    rank = np.array([scored.rank for scored in ranking.given], np.int64)
    return -np.sort(-utility)[rank - 1]

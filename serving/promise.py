"""Promises that are kept while serving: ω moves with what was really shown, within its bounds.

After every window of lists the promised measure v of what was shown is known, and, of the same lists made at a slightly
larger ω, its slope s. Then ω moves by half of (bound + margin − v) / s: a damped Newton step on the dual of the
promise. The margin covers what a window varies by chance: it rises with each broken window and falls with each kept
one, so that about BROKEN of them are broken in the long run (online quantile tracking, Gibbs & Candès 2021).

An exposure ratio falls again where ω has gone too far and groups of higher prices are shown too much; there v is told
from its other side, as 2 − ratio, so that it rises with ω throughout.

Shape suffixes: G groups.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.common.lists import SMALLEST, Filled, ListRule, discounts, one_request, path_numbers
from equipoise.serving.ranking import Ranking

log = logging.getLogger(__name__)

AXES = {"exposure_ratio": "price", "ild": "spread"}
"""What may be promised, and the kind of the objective that moves it."""
WINDOW = 100
"""Lists after which ω moves."""
BROKEN = 0.05
"""Share of the windows that may be broken by chance."""
MARGIN_RATE, FIRST_MARGIN = 0.04, 0.03
"""By how much a broken window raises the margin, and where that begins."""
LARGEST_MARGIN = {"exposure_ratio": 1.0, "ild": 0.2}
"""How far above the bound it may be aimed at, as a share of the way to 1."""
PROBE = (0.005, 0.1)
"""By which ω is larger where the slope is measured: a share of its range, and of itself."""
GAIN, LARGEST_MOVE = 0.5, (0.02, 0.5)
"""Part of the Newton step that is taken, and the most of one step: a share of the range of ω, and of ω itself."""
FLATTEST = 1e-3
"""Least slope of the measure: a flatter one is noise."""


@dataclass(frozen=True)
class Promise:
    """A measure of lists that is not to fall below a bound, by moving ω of an objective.

    Attributes:
        axis: of AXES.
        bound: least value, 0 to 1.
        objective: whose ω moves.
        most, least: largest and smallest ω.
    """

    axis: str
    bound: float
    objective: str
    most: float
    least: float = 0.0

    @property
    def words(self) -> str:
        """As it was asked for."""
        return f"{self.axis}>={self.bound:g}"


def read_promises(text: str, rule: ListRule | None, bounds: Mapping[str, tuple[float, float]]) -> tuple[Promise, ...]:
    """Promises such as `exposure_ratio>=0.8 and ild>=0.7`, for an export.

    Args:
        text: of `--keep`.
        rule: how the export makes lists.
        bounds: least and most ω by objective.

    Raises:
        UserError: it cannot be read, or no objective of the export moves that measure.
    """
    found: list[Promise] = []
    for part in re.split(r"\band\b", text):
        match = re.fullmatch(r"\s*(\w+)\s*>=\s*([0-9.]+)\s*", part)
        if match is None or match[1] not in AXES:
            raise UserError(f"--keep '{part.strip()}' is no promise: write such as exposure_ratio>=0.8 or ild>=0.7")
        axis, bound = match[1], _number(match[2])
        if not 0 < bound < 1:
            raise UserError(f"--keep {axis}>={bound:g}: the bound is a share, above 0 and below 1")
        terms = {name: term for name, term in rule.terms.items() if term.kind == AXES[axis]} if rule else {}
        name = next((name for name in terms if name == "fairness"), next(iter(terms), None))
        if name is None:
            raise UserError(
                f"--keep {axis}: no objective of this export fills places by it (form: greedy): train with "
                f"{'fairness' if axis == 'exposure_ratio' else 'diversity'}"
            )
        if any(promise.objective == name for promise in found):
            raise UserError(f"--keep names {axis} twice: give it one bound")
        least, most = bounds[name]
        if not least < most:
            raise UserError(
                f"--keep {axis}: serving.json bounds ω of {name} by {least:g} and {most:g}, so it cannot move: choose "
                "a point of a front that measures more (`equipoise front … --omegas`)"
            )
        found.append(Promise(axis, bound, name, most, least))
    return tuple(found)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


@dataclass
class _Seen:
    """Sums over the lists of a window: by group exposure and share of candidates, or ILD; at ω, and at a larger one."""

    lists: int = 0
    distance: float = 0.0
    exposed: list[dict[str, float]] = field(default_factory=lambda: [{}, {}])
    present: dict[str, float] = field(default_factory=dict)
    total: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def exposure_ratio(self, which: int, prices: Mapping[str, float]) -> float:
        """Smallest ratio of exposure to candidates over the largest; NaN with one group.

        2 less it where the group that is shown the most has the higher price of the two.
        """
        names = [name for name, share in self.present.items() if share >= SMALLEST * self.lists]
        ratios = {name: self.exposed[which].get(name, 0.0) / self.present[name] for name in names}
        least, most = (choose(ratios, key=lambda name: ratios[name], default="") for choose in (min, max))
        if len(ratios) < 2 or not ratios[most]:
            return float("nan")
        ratio = ratios[least] / ratios[most]
        return 2 - ratio if prices.get(most, 0.0) > prices.get(least, 0.0) else ratio

    def ild(self, which: int, prices: Mapping[str, float]) -> float:
        """Mean ILD."""
        return self.total[which] / self.lists if self.lists else float("nan")


@dataclass
class _State:
    """Where a promise stands.

    Attributes:
        omega, margin: as the next list takes them.
        value: of the last window, None before there was one.
        slope: of the measure by ω, smoothed.
        windows, broken: counts.
    """

    omega: float
    margin: float = FIRST_MARGIN
    value: float | None = None
    slope: float | None = None
    windows: int = 0
    broken: int = 0


class Keeper:
    """Keeps the promises of one server; not for several threads at once.

    Args:
        promises: at least one.
        rule: how the export makes lists.
        omega: of the export, where the promises begin.
        path: file that remembers where they stand, over restarts; None remembers nothing.
        window: lists after which ω moves.

    Raises:
        UserError: the file is of other promises, or broken.
    """

    def __init__(
        self,
        promises: Sequence[Promise],
        rule: ListRule,
        omega: Mapping[str, float],
        path: Path | None = None,
        window: int = WINDOW,
    ) -> None:
        self.promises, self.rule, self.path, self.window = tuple(promises), rule, path, window
        self.start = dict(omega)
        self.states = {
            p.objective: _State(float(np.clip(self.start.get(p.objective, 0.0), p.least, p.most)))
            for p in self.promises
        }
        self._seen = {promise.objective: _Seen() for promise in self.promises}
        if path is not None:
            if path.is_file():
                self._restore(path)
            self._write(path)  # a place that cannot be written is refused now, not at the first window

    def omega(self) -> dict[str, float]:
        """ω of the next list."""
        return self.start | {name: state.omega for name, state in self.states.items()}

    def observe(self, ranking: Ranking) -> None:
        """Take note of a list that is shown: one that was made with what was `omega()` then."""
        shown = [ranking.places[scored.position] for scored in ranking.candidates[: self.rule.places]]
        if ranking.given and all(scored.deltas for scored in ranking.given):
            deltas = {name: [scored.deltas[name] for scored in ranking.given] for name in self.rule.terms}
            utilities = np.array([[scored.utility for scored in ranking.given]])
            maker = one_request(self.rule, deltas, ranking.attributes)
            for promise in self.promises:
                self._add(promise, ranking, shown, lambda omega: maker(utilities, omega, len(shown)))

    def to_json(self) -> list[dict[str, Any]]:
        """Where each promise stands."""
        return [
            {"promise": promise.words, "objective": promise.objective, **vars(self.states[promise.objective])}
            for promise in self.promises
        ]

    def _add(
        self, promise: Promise, ranking: Ranking, shown: list[int], made: Callable[[Mapping[str, float]], Filled]
    ) -> None:
        """Add a list to a promise's window; `made`: as long a list of the same request at another ω."""
        seen, own = self._seen[promise.objective], ranking.omega[promise.objective]
        if promise.axis == "ild" and len(shown) < 2:  # no pair, as in evaluation
            return
        other = self._probed(promise, own)
        probed = made({**ranking.omega, promise.objective: other}).order_RP[0].tolist()
        seen.distance += other - own
        term = self.rule.terms[promise.objective]
        columns = [ranking.attributes[name] for name in term.attributes]
        seen.lists += 1
        for which, order in enumerate((shown, probed)):
            if promise.axis == "ild":
                seen.total[which] += ild(columns, order)
                continue
            share = discounts(len(order)) / discounts(len(order)).sum()
            for position, part in zip(order, share, strict=True):
                value = columns[0][position]
                seen.exposed[which][value] = seen.exposed[which].get(value, 0.0) + float(part)
        if promise.axis == "exposure_ratio":
            for value in columns[0]:
                seen.present[value] = seen.present.get(value, 0.0) + 1 / len(columns[0])
        if seen.lists >= self.window:
            self._move(promise)
            self._seen[promise.objective] = _Seen()
            self._remember()

    @staticmethod
    def _probed(promise: Promise, omega: float) -> float:
        step = PROBE[0] * promise.most + PROBE[1] * omega
        return omega + step if omega + step <= promise.most else omega - step

    def _move(self, promise: Promise) -> None:
        """One step of ω and of the margin, after a window."""
        seen, state = self._seen[promise.objective], self.states[promise.objective]
        prices = self.rule.terms[promise.objective].prices
        value, probed = (getattr(seen, promise.axis)(which, prices) for which in (0, 1))
        if not np.isfinite(value):
            return
        state.value, state.windows = (
            float(min(value, 2 - value) if promise.axis == "exposure_ratio" else value),
            state.windows + 1,
        )
        broken = state.value < promise.bound
        state.broken += int(broken)
        widest = LARGEST_MARGIN[promise.axis] * (1 - promise.bound)
        state.margin = float(np.clip(state.margin + MARGIN_RATE * (float(broken) - BROKEN), 0.0, widest))
        distance = seen.distance / seen.lists
        slope = (probed - value) / distance if np.isfinite(probed) else 0.0
        state.slope = float(slope if state.slope is None else 0.5 * state.slope + 0.5 * slope)
        wanted = GAIN * (promise.bound + state.margin - value) / max(state.slope, FLATTEST)
        most = LARGEST_MOVE[0] * promise.most + LARGEST_MOVE[1] * state.omega
        moved = state.omega + float(np.clip(wanted, -most, most))
        state.omega = float(np.clip(moved, promise.least, promise.most))

    def _remember(self) -> None:
        """Write where promises stand; a server goes on where that fails, and says so."""
        if self.path is not None:
            try:
                self._write(self.path)
            except UserError as error:
                log.warning(str(error))

    def _write(self, path: Path) -> None:
        try:
            with atomic_write(path) as partial:
                partial.write_text(json.dumps({"promises": self.to_json()}, indent=2) + "\n", "utf-8")
        except OSError as error:
            raise UserError(f"--keep-state {path} cannot be written ({error.strerror}): name another file") from error

    def _restore(self, path: Path) -> None:
        try:
            kept = json.loads(path.read_text("utf-8"))["promises"]
            if [each["promise"] for each in kept] != [promise.words for promise in self.promises]:
                raise UserError(f"{path} remembers other promises than --keep gives: name another file, or delete it")
            for promise, each in zip(self.promises, kept, strict=True):
                state = _State(**{name: each[name] for name in vars(self.states[promise.objective])})
                if not np.isfinite([state.omega, state.margin, state.value or 0.0, state.slope or 0.0]).all():
                    raise ValueError("not finite")
                state.omega = float(np.clip(state.omega, promise.least, promise.most))
                self.states[promise.objective] = state
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} cannot be read as what promises remember: delete it to begin anew") from error


def ild(columns: Sequence[Sequence[str]], order: Sequence[int]) -> float:
    """1 − mean share of the attribute path on which two items of a list agree; 0 of a list of one."""
    if len(order) < 2:
        return 0.0
    codes = [np.unique([column[position] for position in order], return_inverse=True)[1] for column in columns]
    paths = path_numbers(codes)
    alike = (paths[:, None] == paths[None]).mean(axis=2)
    return float(1 - alike[np.triu_indices(len(order), k=1)].mean())

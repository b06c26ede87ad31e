"""Promises that are kept while serving: ω moves with what was really shown, within its bounds.

After every window of lists the promised measure v of what was shown is known, and, of the same lists made at a slightly
larger ω, its slope s. Then ω moves by half of (bound + margin − v) / s: a damped Newton step on the dual of the
promise. The margin covers what a window varies by chance: it rises with each broken window and falls with each kept
one, so that about BROKEN of them are broken in the long run (online quantile tracking, Gibbs & Candès 2021).

Shape suffixes: G groups.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.common.lists import SMALLEST, ListRule, discounts, one_request, path_numbers
from equipoise.serving.ranking import Ranking

AXES = {"exposure_ratio": "price", "ild": "spread"}
"""What may be promised, and the kind of the objective that moves it."""
WINDOW = 100
"""Lists after which ω moves."""
BROKEN = 0.05
"""Share of the windows that may be broken by chance."""
MARGIN_RATE = 0.04
"""By how much a broken window raises the margin."""
PROBE = 0.05
"""Share of the range of ω by which the slope is measured."""
GAIN, LARGEST_MOVE = 0.5, 0.2
"""Part of the Newton step that is taken, and the most of the range of ω in one step."""
FLATTEST = 1e-3
"""Least slope, of the measure over the range of ω: a flatter one is noise."""


@dataclass(frozen=True)
class Promise:
    """A measure of lists that is not to fall below a bound, by moving ω of an objective.

    Attributes:
        axis: of AXES.
        bound: least value, 0 to 1.
        objective: whose ω moves.
        most: largest ω.
    """

    axis: str
    bound: float
    objective: str
    most: float

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
        axis, bound = match[1], float(match[2])
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
        found.append(Promise(axis, bound, name, bounds[name][1]))
    return tuple(found)


@dataclass
class _Seen:
    """Sums over the lists of a window: by group exposure and share of candidates, or ILD; at ω, and at a larger one."""

    lists: int = 0
    exposed: list[dict[str, float]] = field(default_factory=lambda: [{}, {}])
    present: dict[str, float] = field(default_factory=dict)
    total: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def exposure_ratio(self, which: int) -> float:
        """Smallest ratio of exposure to candidates over the largest; NaN with one group."""
        names = [name for name, share in self.present.items() if share >= SMALLEST * self.lists]
        ratios = [self.exposed[which].get(name, 0.0) / self.present[name] for name in names]
        return min(ratios) / max(ratios) if len(ratios) > 1 and max(ratios) > 0 else float("nan")

    def ild(self, which: int) -> float:
        """Mean ILD."""
        return self.total[which] / self.lists if self.lists else float("nan")


@dataclass
class _State:
    """Where a promise stands.

    Attributes:
        omega, margin: as the next list takes them.
        value: of the last window, None before there was one.
        slope: of the measure over the range of ω, smoothed.
        windows, broken: counts.
    """

    omega: float
    margin: float = 0.01
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
        self.states = {p.objective: _State(min(self.start.get(p.objective, 0.0), p.most)) for p in self.promises}
        self._seen = {promise.objective: _Seen() for promise in self.promises}
        if path is not None and path.is_file():
            self._restore(path)

    def omega(self) -> dict[str, float]:
        """ω of the next list."""
        return self.start | {name: state.omega for name, state in self.states.items()}

    def observe(self, ranking: Ranking) -> None:
        """Take note of a list that is shown: one that was made with `omega()`."""
        shown = [scored.position for scored in ranking.candidates[: self.rule.places]]
        if ranking.given and all(scored.deltas for scored in ranking.given):
            for promise in self.promises:
                self._add(promise, ranking, shown)

    def to_json(self) -> list[dict[str, Any]]:
        """Where each promise stands."""
        return [
            {"promise": promise.words, "objective": promise.objective, **vars(self.states[promise.objective])}
            for promise in self.promises
        ]

    def _add(self, promise: Promise, ranking: Ranking, shown: list[int]) -> None:
        seen, state = self._seen[promise.objective], self.states[promise.objective]
        deltas = {name: [scored.deltas[name] for scored in ranking.given] for name in self.rule.terms}
        utilities = np.array([[scored.utility for scored in ranking.given]])
        more = {**ranking.omega, promise.objective: self._probed(promise, state.omega)}
        probed = one_request(self.rule, deltas, ranking.attributes)(utilities, more).order_RP[0].tolist()
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
        step = PROBE * promise.most
        return omega + step if omega + step <= promise.most else omega - step

    def _move(self, promise: Promise) -> None:
        """One step of ω and of the margin, after a window."""
        seen, state = self._seen[promise.objective], self.states[promise.objective]
        value, probed = (getattr(seen, promise.axis)(which) for which in (0, 1))
        if not np.isfinite(value):
            return
        state.value, state.windows = float(value), state.windows + 1
        broken = value < promise.bound
        state.broken += int(broken)
        state.margin = max(0.0, state.margin + MARGIN_RATE * (float(broken) - BROKEN))
        distance = (self._probed(promise, state.omega) - state.omega) / promise.most
        slope = (probed - value) / distance if np.isfinite(probed) else 0.0
        state.slope = float(slope if state.slope is None else 0.5 * state.slope + 0.5 * slope)
        wanted = GAIN * (promise.bound + state.margin - value) / max(state.slope, FLATTEST)
        moved = state.omega + promise.most * float(np.clip(wanted, -LARGEST_MOVE, LARGEST_MOVE))
        state.omega = float(np.clip(moved, 0.0, promise.most))

    def _remember(self) -> None:
        if self.path is not None:
            with atomic_write(self.path) as partial:
                partial.write_text(json.dumps({"promises": self.to_json()}, indent=2) + "\n", "utf-8")

    def _restore(self, path: Path) -> None:
        try:
            kept = json.loads(path.read_text("utf-8"))["promises"]
            if [each["promise"] for each in kept] != [promise.words for promise in self.promises]:
                raise UserError(f"{path} remembers other promises than --keep gives: name another file, or delete it")
            for promise, each in zip(self.promises, kept, strict=True):
                state = _State(**{name: each[name] for name in vars(self.states[promise.objective])})
                state.omega = float(np.clip(state.omega, 0.0, promise.most))
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

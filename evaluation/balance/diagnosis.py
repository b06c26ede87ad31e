"""Which objectives conflict, where, and since when: a run's balance records in numbers and sentences."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from equipoise.common.errors import UserError

LAYER = re.compile(r"balance/layer-(\d+)/")
OFTEN = 0.05
"""Share of backwards from which on the conclusions mention something."""
SLIGHT = 0.01
"""A mean cosine nearer to zero than this is no conflict, however certain."""
TOLD = 3
"""How many conflicts, and how many objectives, the conclusions tell one by one."""


@dataclass(frozen=True)
class History:
    """The balance records of a run, R rows in the order of the steps; each holds means over its log interval.

    Attributes:
        first, last: int (R,), the steps that a record tells of, both included, counted from 1.
        values: float64 (R,) by metric name; NaN where a record lacks it.
    """

    first: np.ndarray
    last: np.ndarray
    values: dict[str, np.ndarray]

    @property
    def spans(self) -> np.ndarray:
        """Steps per record, float64 (R,)."""
        return (self.last - self.first + 1).astype(np.float64)

    @property
    def layers(self) -> list[int]:
        """The trunk layers that were probed, counted from 0."""
        return sorted({int(match[1]) for key in self.values if (match := LAYER.match(key))})

    def series(self, key: str) -> np.ndarray:
        """One metric, float64 (R,); all NaN where it was never logged."""
        return self.values.get(key, np.full(len(self.last), np.nan))

    def mean(self, values: np.ndarray) -> float:
        """Mean of (R,) values over the steps, without the missing ones; NaN where all are."""
        held = np.isfinite(values)
        return float(np.average(values[held], weights=self.spans[held])) if held.any() else float("nan")

    def running_mean(self, values: np.ndarray) -> np.ndarray:
        """Centred mean over a tenth of the records, at least three; NaN where none of them holds a value."""
        half = max(1, len(values) // 20)
        held = np.isfinite(values)
        weights = np.where(held, self.spans, 0.0)
        rows = np.arange(len(values))
        low, high = np.maximum(rows - half, 0), np.minimum(rows + half + 1, len(values))
        sums = np.concatenate([[0.0], np.cumsum(weights * np.where(held, values, 0.0))])
        counts = np.concatenate([[0.0], np.cumsum(weights)])
        with np.errstate(invalid="ignore"):
            return (sums[high] - sums[low]) / (counts[high] - counts[low])

    def negative_since(self, values: np.ndarray) -> int | None:
        """First step of the record from which on the running mean stays negative; None where it does not end so.

        Records without a value are passed over.
        """
        mean = self.running_mean(values)
        rows = np.flatnonzero(np.isfinite(values))
        others = np.flatnonzero(~(mean[rows] < 0))
        start = others[-1] + 1 if len(others) else 0
        return int(self.first[rows[start]]) if start < len(rows) else None


@dataclass(frozen=True)
class PairDiagnosis:
    """What two objectives' gradients do to each other; NaN where the two were never measured together.

    Attributes:
        first, second: the objectives.
        cosine, early, late: mean cosine over the run, its first and its last third; a third is three records at least.
        conflicts: share of the measurements with a negative cosine.
        since: step since which the running mean of the cosine stays negative; None where it does not end so.
        clear: whether the last third's mean is negative by more than two standard errors of its records; False for one.
        layers: mean cosine by trunk layer, over the probes since the conflict began, or over all.
    """

    first: str
    second: str
    cosine: float
    early: float
    late: float
    conflicts: float
    since: int | None
    clear: bool
    layers: dict[int, float]

    @property
    def conflicting(self) -> bool:
        """Whether the conflict lasts to the end, is no noise around zero, and is more than slight."""
        return self.since is not None and self.clear and self.late < -SLIGHT

    @property
    def worst_layer(self) -> int | None:
        """The trunk layer of the lowest mean cosine; None without probes."""
        return min(self.layers, key=lambda layer: self.layers[layer]) if self.layers else None


@dataclass(frozen=True)
class ObjectiveDiagnosis:
    """What the steps did for one objective; NaN where its gradient was never measured.

    Attributes:
        weight: mean α on the raw gradient.
        norm: mean length of the raw gradient.
        share: mean share of |α_k|·‖g_k‖ in the sum over objectives, from the records' mean weights and norms.
        along: mean cosine of its gradient and the combined step.
        against: share of the measurements in which the combined step raises its loss to first order.
        against_since: step since which the running mean of `along` stays negative; None where it does not end so.
        zero, nonfinite: share of the backwards in which its gradient was left out, and why.
    """

    name: str
    weight: float
    norm: float
    share: float
    along: float
    against: float
    against_since: int | None
    zero: float
    nonfinite: float


@dataclass(frozen=True)
class Diagnosis:
    """A run's pairs, the worst conflict first, and its objectives, in the order of the config."""

    steps: int
    pairs: list[PairDiagnosis]
    objectives: list[ObjectiveDiagnosis]


def read_history(run: Path) -> History:
    """The balance records of `metrics.jsonl` in a run folder; the cut last line of a killed run is passed over.

    Raises:
        UserError: there is no such file, or it holds no balance records.
    """
    path = run / "metrics.jsonl"
    if not path.is_file():
        raise UserError(f"{run} holds no {path.name}: name the folder of a run that has trained")
    steps, rows = [], []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        row = {key: value for key, value in record.items() if key.startswith("balance/")}
        if row:
            steps.append(record["step"])
            rows.append(row)
    if not rows:
        raise UserError(f"{path} holds no balance records yet: let the run reach its first log line (train.log_every)")
    last = np.array(steps, dtype=np.int64)
    keys = sorted({key for row in rows for key in row})
    values = {key: np.array([row.get(key) for row in rows], dtype=np.float64) for key in keys}
    return History(np.concatenate([[1], last[:-1] + 1]), last, values)


def diagnose(history: History, names: Sequence[str]) -> Diagnosis:
    """Sum up the records of a run whose objectives are `names`, in the order of its config."""
    pairs = [_pair(history, *pair) for pair in combinations(names, 2)]
    pairs.sort(key=lambda pair: (np.isnan(pair.late), pair.late))
    lengths = np.array(
        [np.abs(history.series(f"balance/weight/{name}")) * history.series(f"balance/norm/{name}") for name in names]
    )
    lengths = np.nan_to_num(lengths)  # no norm where the gradient was never finite: no part of the step
    with np.errstate(invalid="ignore"):
        shares = lengths / lengths.sum(0)
    objectives = [_objective(history, name, share) for name, share in zip(names, shares, strict=True)]
    return Diagnosis(int(history.last[-1]), pairs, objectives)


def _pair(history: History, first: str, second: str) -> PairDiagnosis:
    pair = f"{first}-{second}"
    cosines = history.series(f"balance/cosine/{pair}")
    rows = np.flatnonzero(np.isfinite(cosines))
    third = max(len(rows) // 3, min(len(rows), 3))
    late = cosines[rows[len(rows) - third :]]
    clear = third > 1 and late.mean() + 2 * late.std(ddof=1) / np.sqrt(third) < 0
    since = history.negative_since(cosines)
    early_rows, late_rows = (
        np.isin(np.arange(len(cosines)), part) for part in (rows[:third], rows[len(rows) - third :])
    )
    layers = {}
    for layer in history.layers:
        probed = history.series(f"balance/layer-{layer}/cosine/{pair}")
        recent = np.where(history.last >= (since or 0), probed, np.nan)
        mean = history.mean(recent if np.isfinite(recent).any() else probed)
        if np.isfinite(mean):
            layers[layer] = mean
    return PairDiagnosis(
        first,
        second,
        cosine=history.mean(cosines),
        early=history.mean(np.where(early_rows, cosines, np.nan)),
        late=history.mean(np.where(late_rows, cosines, np.nan)),
        conflicts=history.mean(history.series(f"balance/conflict/{pair}")),
        since=since,
        clear=bool(clear),
        layers=layers,
    )


def _objective(history: History, name: str, share: np.ndarray) -> ObjectiveDiagnosis:
    def mean(kind: str) -> float:
        return history.mean(history.series(f"balance/{kind}/{name}"))

    return ObjectiveDiagnosis(
        name,
        weight=mean("weight"),
        norm=mean("norm"),
        share=history.mean(share),
        along=mean("along"),
        against=mean("against"),
        against_since=history.negative_since(history.series(f"balance/along/{name}")),
        zero=mean("zero"),
        nonfinite=mean("nonfinite"),
    )


def conclusions(diagnosis: Diagnosis) -> list[str]:
    """One to four plain sentences: which pairs conflict, what the step does to whom, and who was left out."""
    sentences = [_on_pairs(diagnosis.pairs), _on_step(diagnosis.objectives)]
    for objective in diagnosis.objectives:
        if objective.zero >= OFTEN:
            sentences.append(f"{objective.name} had no gradient in {objective.zero:.0%} of backwards.")
        if objective.nonfinite > 0:
            sentences.append(
                f"The gradient of {objective.name} was not finite in {objective.nonfinite:.1%} of backwards."
            )
    return sentences


def _on_pairs(pairs: Sequence[PairDiagnosis]) -> str:
    conflicting = [pair for pair in pairs if pair.conflicting]
    if not pairs:
        return "There is one objective, so nothing can conflict."
    if not conflicting:
        worst = max(pairs, key=lambda pair: (np.nan_to_num(pair.conflicts), -np.nan_to_num(pair.late)))
        if not worst.conflicts > 0:
            return "No two objectives were ever in conflict."
        often = f"{worst.first} and {worst.second} conflict most often, in {worst.conflicts:.0%} of backwards"
        return f"No two objectives conflict to the end; {often}."
    phrases = []
    for pair in conflicting[:TOLD]:
        layer = "" if pair.worst_layer is None else f", most in trunk layer {pair.worst_layer}"
        phrases.append(
            f"{pair.first} and {pair.second} conflict since step {pair.since} (cosine {signed(pair.late)}){layer}"
        )
    more = len(conflicting) - len(phrases)
    tail = f"; so do {more} more pairs" if more > 1 else "; so does one more pair" if more else ""
    return "; ".join(phrases) + tail + "."


def _on_step(objectives: Sequence[ObjectiveDiagnosis]) -> str:
    hurt = sorted((o for o in objectives if o.against >= OFTEN), key=lambda o: -o.against)
    if hurt:
        phrases = []
        for o in hurt[:TOLD]:
            since = f" (on the mean since step {o.against_since})" if o.against_since is not None else ""
            phrases.append(f"{o.name} in {o.against:.0%} of backwards{since}")
        if len(hurt) > TOLD:
            phrases.append(f"{len(hurt) - TOLD} more less often")
        return f"The step goes against {_listed(phrases)}."
    worst = max(objectives, key=lambda o: np.nan_to_num(o.against))
    if worst.against > 0:
        return (
            f"The step hardly goes against any objective: most often {worst.name}, in {worst.against:.1%} of backwards."
        )
    return "The step never went against any objective."


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def signed(value: float, digits: int = 2) -> str:
    """A number as people write it, with a true minus sign; a dash where there is none."""
    return "–" if np.isnan(value) else f"{value:+.{digits}f}".replace("-", "−")

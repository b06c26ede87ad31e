"""One night: append the day, look at it, train from the run before, compare with what is served, and decide.

Every step leaves a file or folder that appears only when it is whole. A night that was killed is started again with the
same command: steps that have left theirs are not repeated.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from equipoise.common.errors import UserError
from equipoise.configs.load import read_run_config
from equipoise.configs.schema import RunConfig
from equipoise.evaluation.evaluate_run import ranking_attributes
from equipoise.evaluation.split_scores import SplitScores
from equipoise.export.files import open_record
from equipoise.export.write import export_run
from equipoise.nightly.days import DAY, Days, refuse_unsupported
from equipoise.nightly.drift import GROUPS, column_drift, label_rates, psi, rate_drift
from equipoise.nightly.judge import Scored, Verdict, day_is_refused, figures_of, judge, judge_alone
from equipoise.nightly.state import DAY_REFUSED, KEPT, PROMOTED, REFUSED, State
from equipoise.train.checkpoint_files import checkpoints
from equipoise.train.job import train
from equipoise.train.run_folder import has_begun, is_finished

log = logging.getLogger(__name__)

SAVE_EVERY = 200
"""Steps between checkpoints where the configuration names none: a night must be able to go on, and to hand on."""
Trainer = Callable[[RunConfig, bool, bool], bool]
"""Trains a configuration (resume, overwrite); false where a signal stopped it."""


class Interrupted(Exception):
    """A signal stopped the training of a night, which goes on when it is started again."""


@dataclass(frozen=True)
class Decision:
    """What a night came to.

    Attributes:
        action: promoted, refused, day refused or kept.
        day: the newest day that was read.
        reasons: why something was refused.
        record: all that is written down.
    """

    action: str
    day: str
    reasons: list[str]
    record: dict[str, Any]


def train_here(config: RunConfig, resume: bool, overwrite: bool) -> bool:
    """Train in this process."""
    return train(config, resume=resume, overwrite=overwrite) is not None


def run_night(
    config: RunConfig, day: date, folder: Path | None = None, again: bool = False, trainer: Trainer = train_here
) -> Decision:
    """Run the night after a day.

    Args:
        config: of the shop; its `output` names no run here.
        day: the last day whose logs are complete; the newest whose labels are known is `nightly.label_days` earlier.
        folder: of the state; None takes that of the configuration.
        again: prepare and judge a day anew that was refused.
        trainer: trains a run.

    Raises:
        UserError: the settings do not fit, the day is not there, or another night holds the folder.
        Interrupted: a signal stopped the training.
    """
    refuse_unsupported(config)
    state = State.of(config, folder)
    newest = day - timedelta(days=config.nightly.label_days)
    with state.locked():
        state.refuse_other_settings(config)
        night = Night(config, state, newest, trainer)
        if again:
            night.days.forget(newest)
        return night.run()


class Night:
    """The steps of one night.

    Args:
        config: of the shop.
        state: held by this process.
        newest: the newest day whose labels are known.
        trainer: trains a run.
    """

    def __init__(self, config: RunConfig, state: State, newest: date, trainer: Trainer = train_here) -> None:
        self.config, self.state, self.newest, self.trainer = config, state, newest, trainer
        self.name = newest.isoformat()
        self.days = Days(config, state)
        self.served = state.served
        self.seconds: dict[str, float] = {}
        self._clock = time.perf_counter()

    def run(self) -> Decision:
        """All steps that are not done yet."""
        if self.state.night(self.name).is_file():
            return self._decided()
        self.days.append(self.newest)
        self._took("prepare")
        drift = self._drift()
        until = self.state.trained_until(self.served) if self.served else None
        data = self.days.compose(self.newest, until)
        self._took("compose")
        attributes = ranking_attributes(data)
        champion = self._score(self._served_run(), data) if self.served else None
        self._took("score the served model")
        record: dict[str, Any] = {"day": self.name, "served": self.served, "drift": drift}
        if champion is not None:
            record["figures"] = {"champion": figures_of(champion, attributes)}
            drift["scores"] = self._score_drift(champion)
            why = day_is_refused(self._auc(record["figures"]["champion"]), self._auc_before(), self.config.nightly)
            if why is not None:
                self.days.refuse(self.newest)
                return self._decide(DAY_REFUSED, [why], record)
        self._tell_drift(drift)
        trained = self.newest - DAY
        if until is not None and not any(until < each < self.newest for each in self.days.known()):
            return self._decide(KEPT, [f"no accepted day after {until} is there to train on"], record)
        self._train(data)
        self._took("train")
        challenger = self._score(self.state.run(self.name), data)
        self._took("score tonight's model")
        verdict = (
            judge_alone(challenger, attributes)
            if champion is None
            else judge(champion, challenger, self.config.nightly, attributes, self._known_items(), self.config.seed)
        )
        record |= {"trained_until": trained.isoformat(), "figures": verdict.figures}
        record["differences"] = verdict.differences
        if not verdict.reasons:
            self._export(verdict)
            self._took("export")
        return self._decide(REFUSED if verdict.reasons else PROMOTED, verdict.reasons, record)

    def _took(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step], self._clock = round(now - self._clock, 1), now

    def _decided(self) -> Decision:
        """A night that is over: what it came to, and the switch if that is what was left to do."""
        record = self.state.decision(self.name)
        action, reasons = record["action"], record["reasons"]
        entry = next((e for e in self.state.history() if e["day"] == self.name and e["action"] == action), None)
        if entry is None:  # killed between the decision and what follows from it
            self._carry_out(action, reasons)
        log.info(f"the night of {self.name} is over already: {action}")
        return Decision(action, self.name, reasons, record)

    def _decide(self, action: str, reasons: list[str], record: dict[str, Any]) -> Decision:
        record |= {"action": action, "reasons": reasons, "seconds": self.seconds}
        self.state.write_decision(self.name, record)
        self._carry_out(action, reasons)
        return Decision(action, self.name, reasons, record)

    def _carry_out(self, action: str, reasons: list[str]) -> None:
        if action == PROMOTED:
            self.state.switch(self.name)
        self.state.remember(action, self.name, **({"reasons": reasons} if reasons else {}))
        told = f": {'; '.join(reasons)}" if reasons else ""
        if action == PROMOTED:
            log.info(f"promoted: {self.state.link} → {self.state.export(self.name)}")
        else:
            log.warning(f"{action}, so {self.served or 'nothing'} stays served{told}")

    def _served_run(self) -> Path:
        assert self.served is not None, "something is served"
        return self.state.run(self.served)

    def _train(self, data: RunConfig) -> None:
        """Train tonight's run, or go on with it."""
        run, settings, options = self.state.run(self.name), self.config.nightly, data.train
        changes: dict[str, Any] = {"save_every": options.save_every or SAVE_EVERY}
        if self.served is not None:
            changes |= {"start_from": self._served_run(), "start_prior": settings.prior}
            changes |= {"lr": options.lr * settings.lr_ratio, "head_lr": options.head_lr * settings.lr_ratio}
            if settings.epochs is not None:
                changes |= {"epochs": settings.epochs, "max_steps": None}
        own = {"name": f"{data.name}-{self.name}", "output": run, "train": options.model_copy(update=changes)}
        if is_finished(run):
            return
        begun = has_begun(run)
        resume = begun and bool(checkpoints(run))
        run.parent.mkdir(exist_ok=True)
        if not self.trainer(data.model_copy(update=own), resume, begun and not resume):
            raise Interrupted

    def _score(self, run: Path, data: RunConfig) -> Scored:
        """What a run says of the newest day."""
        own = read_run_config(run)
        kept = own.data.model_copy(update={"folder": data.data.folder})
        scores = SplitScores(own.model_copy(update={"data": kept, "evaluate": data.evaluate}), run)
        slates, rows = scores.rows("test")
        _ = scores.model  # loaded before the clock runs
        start = time.perf_counter()
        table = scores.score_rows(slates, rows, f"scoring {self.name} by {run.name}")
        assert table is not None, "one process scores"
        return Scored(table, time.perf_counter() - start)

    def _known_items(self) -> int:
        """Items that the days before the newest had."""
        before = self.days.known()[-2]
        return pq.read_metadata(self.state.day(before.isoformat()) / "items.parquet").num_rows

    def _export(self, verdict: Verdict) -> None:
        """Export tonight's run; an export whose golden check fails refuses it."""
        out = self.state.export(self.name)
        if (out / "serving.json").is_file():
            open_record(out)
            return
        out.parent.mkdir(exist_ok=True)
        try:
            export_run(self.state.run(self.name), out, golden=self.config.nightly.golden)
        except UserError as error:
            verdict.reasons.append(f"its export is refused: {error}")

    @staticmethod
    def _auc(figures: dict[str, Any]) -> float | None:
        return figures["targets"].get("ctr", {}).get("auc")

    def _last_figures(self) -> dict[str, Any] | None:
        """The served model's figures on the latest day that was accepted before this one."""
        for each in reversed(self.days.known()):
            path = self.state.night(each.isoformat())
            if each >= self.newest or not path.is_file():
                continue
            record = self.state.decision(each.isoformat())
            role = "challenger" if record["day"] == self.served else "champion"
            if role == "champion" and record.get("served") != self.served:
                continue
            found = record.get("figures", {}).get(role)
            if found is not None:
                return found
        return None

    def _auc_before(self) -> float | None:
        figures = self._last_figures()
        return self._auc(figures) if figures else None

    def _drift(self) -> dict[str, Any]:
        """PSI of the newest day's columns and label rates against the accepted part before it."""
        before = [each for each in self.days.known() if each < self.newest]
        if not before:
            return {}
        parts = [self.state.day(each.isoformat()) for each in (before[-1], self.newest)]
        return {
            "against": before[-1].isoformat(),
            "columns": column_drift(*parts),
            "labels": rate_drift(*parts),
            "rates": label_rates(parts[1]),
        }

    def _score_drift(self, champion: Scored) -> float | None:
        """PSI of the served model's pCTR against its deciles on the latest day before."""
        figures = self._last_figures()
        if figures is None:
            return None
        edges = np.unique(figures["pctr_deciles"])
        counts = np.bincount(np.searchsorted(edges, champion.table.pctr, "right"), minlength=len(edges) + 1)
        if len(edges) < GROUPS - 1:
            return None
        return psi(np.full(len(counts), 1e9), counts.astype(np.float64))

    def _tell_drift(self, drift: dict[str, Any]) -> None:
        bound = self.config.nightly.drift
        values = {**drift.get("columns", {}), **drift.get("labels", {})}
        values |= {"scores": drift["scores"]} if drift.get("scores") is not None else {}
        moved = {name: value for name, value in values.items() if value > bound}
        if moved:
            told = ", ".join(f"{name} {value:.2f}" for name, value in sorted(moved.items(), key=lambda pair: -pair[1]))
            log.warning(f"drift since {drift['against']} (PSI above {bound:g}): {told}")
        elif values:
            name = max(values, key=lambda key: values[key])
            log.info(f"no drift since {drift['against']}: the largest PSI is {values[name]:.2f} ({name})")

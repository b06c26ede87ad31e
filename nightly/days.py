"""The days of a state: a prepared part for each, and the folder that a night trains and is judged on.

Nothing of an earlier day is prepared or tokenised again. Which requests are trained on, and which judge training, goes
by hashes of their ids, so that no request is ever both.
"""

import hashlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from equipoise.common.errors import UserError
from equipoise.common.progress import ProgressBar
from equipoise.configs.schema import RunConfig, SplitConfig
from equipoise.data.compose import Chosen, compose
from equipoise.data.labels import labels_of, labels_read
from equipoise.data.manifest import FILE_NAME, Manifest
from equipoise.data.prepare.parts import NoImpressions, Part
from equipoise.data.prepare.slates import prepare
from equipoise.data.token_cache import TokenCache, cache_key
from equipoise.nightly.state import State
from equipoise.train.thing_vectors import ThingVectors, copy_vectors, make_vectors, vectors_folder
from equipoise.train.token_caches import FOLDER as TOKENS
from equipoise.train.token_caches import CachePlace, make_tokens

log = logging.getLogger(__name__)

REFUSED = ".refused"
"""Ending of a file beside a part whose day was refused."""
DAY = timedelta(days=1)


def refuse_unsupported(config: RunConfig) -> None:
    """Refuse settings under which a day's rows depend on days that are not prepared with it.

    Raises:
        UserError: names the setting.
    """
    split = config.data.split
    names = {
        "data.weights": config.data.weights is not None,
        "data.split.holdout_users": bool(split.holdout_users),
        "data.split.holdout_items": split.holdout_items is not None,
        "data.split.column": split.column is not None,
        "data.item_dropout": bool(config.data.item_dropout),
        "data.scales_from": config.data.scales_from is not None,
        "train.feature_dropout": bool(config.train.feature_dropout),
        "train.start_from": config.train.start_from is not None,
        "objectives.recall": config.objectives.recall is not None,
    }
    named = [name for name, given in names.items() if given]
    if named:
        raise UserError(f"equipoise nightly does not work with {named[0]}: leave it out of its configuration")


def _name(day: date) -> str:
    return day.isoformat()


@dataclass(frozen=True)
class Days:
    """The parts of a state."""

    config: RunConfig
    state: State

    def known(self, refused: bool = False) -> list[date]:
        """The last days of the parts that are there, oldest first; those that were refused only if asked for."""
        folder = self.state.folder / "days"
        names = [path.name for path in folder.glob("????-??-??") if (path / FILE_NAME).is_file()]
        days = sorted(date.fromisoformat(name) for name in names)
        return [day for day in days if refused or not self._mark(day).exists()]

    def _mark(self, day: date) -> Path:
        return self.state.day(f"{_name(day)}{REFUSED}")

    def refuse(self, day: date) -> None:
        """Leave a day out of everything that follows."""
        self._mark(day).touch()

    def forget(self, day: date) -> None:
        """Drop a refused day and what its night made, so that it is prepared again.

        Raises:
            UserError: it was not refused, or later days follow it.
        """
        if not self._mark(day).exists():
            raise UserError(f"the day {day} was not refused: --again is for refused days")
        if self.known(refused=True)[-1] != day:
            raise UserError(f"days after {day} are prepared already: it stays left out")
        name = _name(day)
        for folder in (self.state.day(name), self.state.data(name), self.state.run(name)):
            shutil.rmtree(folder, ignore_errors=True)
        self.state.night(name).unlink(missing_ok=True)
        self._mark(day).unlink()

    def append(self, day: date) -> None:
        """Prepare and tokenise what is not there yet, up to a day: the days before it in one part, itself in another.

        Raises:
            UserError: later days are there already, or the day has no impressions.
        """
        known = self.known(refused=True)
        if day in known:
            self._make(day)
            return
        if known and day < known[-1]:
            raise UserError(f"{self.state.folder} has days up to {known[-1]} already: --day {day} comes before")
        before = day - DAY
        if not known or known[-1] < before:
            try:
                self._prepare(before, known[-1] + DAY if known else None)
            except NoImpressions as error:
                if not known:
                    raise UserError(
                        f"there is no impression before {day}, so there is nothing to train on: name a later --day"
                    ) from error
                log.info(f"no impressions between {known[-1]} and {day}")
        self._prepare(day, day)

    def _prepare(self, last: date, first: date | None) -> None:
        accepted = self.known()
        part = Part(
            since=datetime.combine(first, time()) if first is not None else None,
            until=datetime.combine(last + DAY, time()),
            before=self.state.day(_name(accepted[-1])) if accepted else None,
        )
        config = self.of_part(last)
        with ProgressBar(f"preparing {last}") as bar:
            manifest = prepare(
                config.data, bar.stage, labels_of(config.objectives), labels_read(config.objectives), part
            )
        counts = manifest.splits["train"]
        log.info(f"prepared {last}: {counts.requests:,} requests, {counts.impressions:,} impressions")
        self._make(last)

    def _make(self, day: date) -> None:
        """What is made of a part's texts, where it is not there yet."""
        self._tokens(day)
        if self.config.data.comparison is not None:
            self._vectors(day)

    def of_part(self, day: date) -> RunConfig:
        """The configuration that reads one part."""
        known = self.known(refused=True)
        first = self.state.day(_name(known[0])) if known and known[0] != day else None
        changes = {"folder": self.state.day(_name(day)), "scales_from": first, "split": SplitConfig()}
        return self.config.model_copy(update={"data": self.config.data.model_copy(update=changes)})

    def _before(self, day: date) -> RunConfig | None:
        """The configuration that reads the accepted part before a day; None of the first part."""
        earlier = [each for each in self.known() if each < day]
        return self.of_part(earlier[-1]) if earlier else None

    def _tokens(self, day: date) -> TokenCache:
        earlier, before = self._before(day), None
        if earlier is not None:
            before = (earlier.data.folder, TokenCache(CachePlace.of(earlier).folder))
        return make_tokens(self.of_part(day), before)[0]

    def _vectors(self, day: date) -> ThingVectors:
        """The vectors of the things until a day, those of the part before it taken over."""
        earlier = self._before(day)
        before = ThingVectors.open(vectors_folder(earlier)) if earlier is not None else None
        return make_vectors(self.of_part(day), before)[0]

    def compose(self, day: date, trained_until: date | None) -> RunConfig:
        """The configuration of a night's data, which are put together where they are not there yet.

        Train and valid are the accepted days before it that were not trained on, and a share of older ones; test is
        the day itself.

        Args:
            day: the newest one.
            trained_until: the last day that the run before was trained on; None before the first run.
        """
        folder = self.state.data(_name(day))
        config = self.config.model_copy(update={"data": self.config.data.model_copy(update={"folder": folder})})
        if (folder / FILE_NAME).is_file():
            return config
        chosen = []
        for each in self.known(refused=True):
            if each > day or (each != day and self._mark(each).exists()):
                continue
            part, tokens = self.state.day(_name(each)), self._tokens(each)
            chosen.append(Chosen(part, tokens, self._rows(part, each, day, trained_until)))
        compose(folder, chosen, self._tokens_at(config))
        if config.data.comparison is not None:
            copy_vectors(self._vectors(day), config)
        return config

    def _tokens_at(self, config: RunConfig) -> Callable[[Manifest], str]:
        last = self.known(refused=True)[-1]
        place = CachePlace.of(self.of_part(last))
        return lambda manifest: f"{TOKENS}/{cache_key(place.tokenizer, config.tokens, place.encoder, manifest)}"

    def _rows(self, part: Path, each: date, day: date, trained_until: date | None) -> dict[str, np.ndarray]:
        files = Manifest.read(part).splits["train"].files
        table = [pq.read_table(part / file, columns=["request_id", "timestamp"]) for file in files]
        ids = [name for one in table for name in one.column("request_id").to_pylist()]
        if each == day:
            return {"test": np.arange(len(ids))}
        settings = self.config.nightly
        used = np.ones(len(ids), bool)
        if trained_until is not None and each <= trained_until:
            used = _hashed(ids, f"replay {day}") < settings.replay
            if settings.replay_days is not None:
                since = np.datetime64(datetime.combine(day, time()) - settings.replay_days * DAY)
                moments = np.concatenate([one.column("timestamp").to_numpy() for one in table])
                used &= moments >= since
        valid = _hashed(ids, "valid") < settings.valid_fraction
        return {"train": np.flatnonzero(used & ~valid), "valid": np.flatnonzero(used & valid)}


def _hashed(ids: list[str], salt: str) -> np.ndarray:
    """A number from 0 to below 1 of each id, float64 (N,), by a hash: the same on any machine."""
    start = hashlib.md5(f"{salt} ".encode(), usedforsecurity=False)
    numbers = np.empty(len(ids))
    for index, name in enumerate(ids):
        own = start.copy()
        own.update(name.encode())
        numbers[index] = int.from_bytes(own.digest()[:4], "big") / 2**32
    return numbers

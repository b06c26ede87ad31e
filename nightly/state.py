"""The state folder of nightly runs: where a night's files are, who holds it, which export is served, and its history.

STATE/days, nights, data, runs and exports have an entry per day; `current` is a link to the export that is served, and
`history.json` says what was promoted, refused and rolled back. The link is what counts: servers follow it alone.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from equipoise.common.atomic import atomic_write, through_to_disk
from equipoise.common.digest import is_as_written, with_digest
from equipoise.common.errors import UserError
from equipoise.common.file_lock import Held, hold
from equipoise.configs.schema import RunConfig

log = logging.getLogger(__name__)

LINK, HISTORY, LOCK, SETTINGS = "current", "history.json", ".lock", "settings.json"
PROMOTED, ROLLED_BACK, REFUSED, DAY_REFUSED, KEPT = "promoted", "rolled back", "refused", "day refused", "kept"
"""What a night, or a person, did."""
SEALED_SETTINGS = ("data", "tokens", "backbone", "lora", "objectives", "relevance", "seed")
"""Sections of a configuration that the days and runs of one state share."""
MAY_MOVE = ("folder", "tables", "file", "memory_limit", "shard_requests", "split", "scales_from")
"""Settings of `data` that may change from night to night."""


@dataclass(frozen=True)
class State:
    """A state folder."""

    folder: Path

    @classmethod
    def of(cls, config: RunConfig, folder: Path | None = None) -> "State":
        """The one that is named, or that of the configuration."""
        output = config.output
        return cls(folder or config.nightly.state or output.with_name(f"{output.name}-nightly"))

    def day(self, name: str) -> Path:
        """The prepared part whose last day it is."""
        return self.folder / "days" / name

    def night(self, name: str) -> Path:
        """What was decided on that day."""
        return self.folder / "nights" / f"{name}.json"

    def data(self, name: str) -> Path:
        """The prepared folder that the night trains on."""
        return self.folder / "data" / name

    def run(self, name: str) -> Path:
        """The run of the night."""
        return self.folder / "runs" / name

    def export(self, name: str) -> Path:
        """The export of the night."""
        return self.folder / "exports" / name

    @property
    def link(self) -> Path:
        """The link to the export that is served."""
        return self.folder / LINK

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder: one night, or one roll-back, at a time.

        Raises:
            UserError: another process holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = hold(self.folder / LOCK)
        except Held as error:
            raise UserError(f"{self.folder} is held by {error}: wait until it ends, or stop it") from error
        with handle:
            yield

    def refuse_other_settings(self, config: RunConfig) -> None:
        """Refuse settings other than those that the state began with; the first night writes them down.

        Raises:
            UserError: names the first that differs.
        """
        path, own = self.folder / SETTINGS, _sealed(config)
        if not path.is_file():
            with atomic_write(path) as partial:
                partial.write_text(json.dumps(with_digest({"settings": own}), indent=2) + "\n", "utf-8")
            return
        kept = _read(path)["settings"]
        for name in SEALED_SETTINGS:
            if kept.get(name) == own[name]:
                continue
            keys = sorted({*kept[name], *own[name]}) if isinstance(own[name], dict) else []
            key = next((f"{name}.{key}" for key in keys if kept[name].get(key) != own[name].get(key)), name)
            raise UserError(
                f"{self.folder} began with another {key}, which its days and runs share: set it back, or begin with "
                "another --state"
            )

    def history(self) -> list[dict[str, Any]]:
        """What was done, oldest first.

        Raises:
            UserError: the file is damaged.
        """
        path = self.folder / HISTORY
        return _read(path)["entries"] if path.is_file() else []

    def remember(self, action: str, day: str, **more: Any) -> None:
        """Add to the history; what is its last entry already is not written twice."""
        entries = self.history()
        entry = {"action": action, "day": day, **more}
        if entries and {key: entries[-1].get(key) for key in entry} == entry:
            return
        entries.append({**entry, "time": datetime.now(UTC).isoformat(timespec="seconds")})
        with atomic_write(self.folder / HISTORY) as partial:
            partial.write_text(json.dumps(with_digest({"entries": entries}), indent=2) + "\n", "utf-8")

    @property
    def served(self) -> str | None:
        """The day of the export that the link names; None before the first promotion.

        Raises:
            UserError: the link leads elsewhere or nowhere.
        """
        if not self.link.is_symlink():
            if self.link.exists():
                raise UserError(f"{self.link} is no link: move it away, so that promotions can make it one")
            return None
        target = self.link.readlink()
        if target.parent != Path("exports") or not self.link.exists():
            raise UserError(f"{self.link} leads to {target}, which is no export of {self.folder}: set it right")
        return target.name

    def trained_until(self, name: str) -> date:
        """The last day that the run of a night was trained on, as its decision says."""
        return date.fromisoformat(self.decision(name)["trained_until"])

    def decision(self, name: str) -> dict[str, Any]:
        """What was decided on a day.

        Raises:
            UserError: nothing was, or the record is damaged.
        """
        path = self.night(name)
        if not path.is_file():
            raise UserError(f"{path} is missing: restore it, or run that night again")
        return _read(path)

    def write_decision(self, name: str, decision: Mapping[str, Any]) -> None:
        """Write down what was decided."""
        self.night(name).parent.mkdir(exist_ok=True)
        with atomic_write(self.night(name)) as partial:
            partial.write_text(json.dumps(with_digest(decision), indent=2, allow_nan=False) + "\n", "utf-8")

    def switch(self, name: str) -> None:
        """Let the link name another export, in one step: whoever opens it finds the old one or the new one."""
        new = self.folder / f".{LINK}.new"
        new.unlink(missing_ok=True)
        new.symlink_to(Path("exports") / name)
        new.replace(self.link)
        through_to_disk(self.folder)


def roll_back(state: State) -> tuple[str, str]:
    """Serve the export before the present one again; returns both days.

    Raises:
        UserError: there is none, or it is gone.
    """
    with state.locked():
        promoted: list[str] = []
        for entry in state.history():
            if entry["action"] == PROMOTED:
                promoted.append(entry["day"])
            elif entry["action"] == ROLLED_BACK:
                promoted = promoted[: promoted.index(entry["to"]) + 1] if entry["to"] in promoted else promoted
        served = state.served
        if served in promoted:
            promoted = promoted[: promoted.index(served)]
        if served is None or not promoted:
            raise UserError(f"{state.folder} has no export before the present one: there is nothing to go back to")
        before = promoted[-1]
        if not (state.export(before) / "serving.json").is_file():
            raise UserError(f"{state.export(before)} is gone: restore it, or promote another night")
        state.remember(ROLLED_BACK, served, to=before)
        state.switch(before)
    return served, before


def _sealed(config: RunConfig) -> dict[str, Any]:
    settings = config.model_dump(mode="json")
    settings["data"] = {name: value for name, value in settings["data"].items() if name not in MAY_MOVE}
    return {name: settings[name] for name in SEALED_SETTINGS}


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text("utf-8"))
        if not is_as_written(record):
            raise ValueError("its hash differs")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not as it was written: restore it") from error
    return record

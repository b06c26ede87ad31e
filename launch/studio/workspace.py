"""What a studio may touch: the tables, configs, runs and exports of one folder, by names that lead nowhere else."""

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.common.yaml_file import MOST_BYTES, read_yaml
from equipoise.data.database_bar import hide_bar
from equipoise.evaluation.compare.run_records import find_runs

OWN = ".equipoise-studio"
CONFIG_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}\.yaml")
ENDINGS = (".csv", ".parquet", ".jsonl")
SKIPPED = ("runs", "prepared", "exports", "wandb", "node_modules", "__pycache__", "truth")
MOST_TABLES, DEEPEST = 100, 3
RECENT_SECONDS = 120
"""An unfinished run that was written to within this time is shown as training."""


@dataclass(frozen=True)
class Table:
    """A table file of the workspace, with the names of its columns."""

    path: str
    columns: list[str]


class Workspace:
    """One folder; all paths of requests are relative to it and must be among what it lists."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def tables(self) -> list[Table]:
        """Table files, nearest first; what cannot be read as a table is passed over."""
        found = []
        for path in self._table_files(self.folder, DEEPEST):
            columns = _columns(path)
            if columns:
                found.append(Table(str(path.relative_to(self.folder)), columns))
            if len(found) == MOST_TABLES:
                break
        return found

    def _table_files(self, folder: Path, depth: int) -> list[Path]:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        files = [entry for entry in entries if entry.suffix.lower() in ENDINGS and entry.is_file()]
        inner = [entry for entry in entries if entry.is_dir() and not entry.is_symlink() and entry.name not in SKIPPED]
        return files + ([path for each in inner for path in self._table_files(each, depth - 1)] if depth else [])

    def configs(self) -> list[str]:
        """Names of the YAML files in the workspace itself."""
        return sorted(path.name for path in self.folder.glob("*.yaml") if CONFIG_NAME.fullmatch(path.name))

    def config_path(self, name: str) -> Path:
        """The path of a config's name.

        Raises:
            UserError: it is no name of a config.
        """
        if not CONFIG_NAME.fullmatch(name):
            raise UserError(f"'{name[:60]}' is no name of a config: use letters, digits, . _ - and the ending .yaml")
        path = self.folder / name
        if path.is_symlink() and not path.resolve().is_relative_to(self.folder):
            raise UserError(f"{name} leads out of the workspace: copy it there")
        return path

    def read_config(self, name: str) -> str:
        """The text of a config.

        Raises:
            UserError: there is none, or it is no text.
        """
        try:
            return self.config_path(name).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{name} cannot be read: choose another config") from error

    def write_config(self, name: str, text: str) -> None:
        """Write a config, whole or not at all.

        Raises:
            UserError: the name is none, or the text is too long.
        """
        if len(text.encode()) > MOST_BYTES:
            raise UserError(f"{name} would have more than {MOST_BYTES >> 20} MiB: shorten it")
        with atomic_write(self.config_path(name)) as partial:
            partial.write_text(text, "utf-8")

    def runs(self) -> list[Path]:
        """Run folders below runs/ and below the outputs of the configs, those in the workspace alone."""
        places = [self.folder / "runs", *(self.folder / output for output in self._outputs())]
        inside = [place for place in places if place.is_dir() and place.resolve().is_relative_to(self.folder)]
        marked = [run for run in find_runs(list(dict.fromkeys(inside))) if (run / "config.yaml").is_file()]
        return [run for run in marked if run != self.folder]

    def _outputs(self) -> list[str]:
        outputs = []
        for name in self.configs():
            try:
                settings: Any = read_yaml(self.folder / name, "correct it")
            except UserError:
                continue  # shown as it is, and refused by `validate`
            if isinstance(settings, dict) and isinstance(settings.get("output"), str):
                outputs.append(settings["output"])
        return outputs

    def run_path(self, name: str) -> Path:
        """The folder of a run by its path in the workspace.

        Raises:
            UserError: it is none of the runs.
        """
        found = {str(run.relative_to(self.folder)): run for run in self.runs()}
        if name not in found:
            raise UserError(f"there is no run '{name[:80]}' in this workspace: choose one of the list")
        return found[name]


def written_lately(run: Path) -> bool:
    """Whether a run's curves or checkpoints have changed within the last two minutes."""
    times = [
        path.stat().st_mtime
        for name in ("metrics.jsonl", "checkpoints", "config.yaml")
        if (path := run / name).exists()
    ]
    return time.time() - max(times, default=0.0) < RECENT_SECONDS


def _columns(path: Path) -> list[str]:
    readers = {".csv": "read_csv", ".parquet": "read_parquet", ".jsonl": "read_json"}
    with duckdb.connect() as con:
        hide_bar(con)
        try:
            quoted = str(path).replace("'", "''")
            rows = con.execute(f"DESCRIBE SELECT * FROM {readers[path.suffix.lower()]}('{quoted}')").fetchall()
        except duckdb.Error:
            return []
    return [str(row[0]) for row in rows]

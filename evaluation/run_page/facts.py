"""What a run is, in a few labelled words; and the data it was trained on."""

from pathlib import Path
from typing import Any

from equipoise.evaluation.compare.run_record import RunRecord, json_object
from equipoise.evaluation.run_page.missing import missing
from equipoise.train.data_record import FILE_NAME as DATA
from equipoise.train.environment import FILE_NAME as ENVIRONMENT


def facts(record: RunRecord) -> list[tuple[str, str]]:
    """Label and words: state, model, method, time, machine, code, versions; what is unknown is left out."""
    summary, config = record.summary, record.config
    where = json_object(record.folder / ENVIRONMENT, f"train {record.folder} again") or {}
    state = "finished" if record.finished else f"unfinished: go on with equipoise train {record.folder}/config.yaml"
    found = [
        ("state", f"{state}{'' if record.finished else ' --resume'}, {record.steps} steps"),
        ("backbone", str((config.get("backbone") or {}).get("path", "")).removeprefix("pkg://")),
        ("objectives", ", ".join(record.objectives)),
        ("balancing", str((config.get("balancing") or {}).get("method", ""))),
        ("training time", _time(summary.get("seconds"))),
        ("processes", str(summary.get("processes", ""))),
        ("peak memory", _gigabytes(summary.get("peak_memory_bytes"))),
        ("machine", _machine(where.get("machine") or {})),
        ("code", _code(where.get("git") or {})),
        ("versions", ", ".join(f"{name} {v}" for name, v in (where.get("versions") or {}).items() if v)),
    ]
    return [(label, words) for label, words in found if words]


def data_part(folder: Path) -> dict[str, Any]:
    """Counts, splits, what was dropped and the notes of the prepared data, as the run folder keeps them."""
    record = json_object(folder / DATA, f"run `equipoise evaluate {folder}` again")
    if record is None:
        return missing("What the data hold was not kept when this run was trained.", f"equipoise evaluate {folder}")
    return {key: record.get(key) for key in ("source", "folder", "created", "counts", "splits", "dropped", "notes")}


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _gigabytes(size: float | None) -> str:
    return "" if size is None else f"{size / 2**30:.1f} GiB per process"


def _machine(machine: dict[str, Any]) -> str:
    words = [
        machine.get("gpu"),
        machine.get("processor"),
        f"{machine['cores']} cores" if machine.get("cores") else None,
    ]
    return ", ".join(str(word) for word in words if word)


def _code(git: dict[str, Any]) -> str:
    commit = str(git.get("commit") or "")[:10]
    return f"{commit}{', with changes that are not committed' if git.get('dirty') else ''}" if commit else ""

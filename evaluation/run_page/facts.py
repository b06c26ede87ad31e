"""What a report says of a run at its head, and what it says instead of a part that is not there yet."""

from typing import Any

from equipoise.evaluation.compare.run_records import RunRecord, json_object
from equipoise.train.environment import FILE_NAME as ENVIRONMENT


def missing(sentence: str, command: str) -> dict[str, Any]:
    """What stands in place of the part: what is not there, and the command that makes it."""
    return {"missing": sentence, "command": command}


def held(part: dict[str, Any]) -> bool:
    """Whether a part is there."""
    return "missing" not in part


def facts(record: RunRecord) -> list[tuple[str, str]]:
    """Label and words: state, model, method, time, machine, code, versions; what is unknown is left out."""
    summary, config = record.summary, record.config
    where = json_object(record.folder / ENVIRONMENT, f"train {record.folder} again") or {}
    state = "finished" if record.finished else f"unfinished: go on with equipoise train {record.folder}/config.yaml"
    pairs = [
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
    return [(label, words) for label, words in pairs if words]


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

"""A part of the report that the run folder does not hold yet."""

from typing import Any


def missing(sentence: str, command: str) -> dict[str, Any]:
    """What stands in place of the part: what is not there, and the command that makes it."""
    return {"missing": sentence, "command": command}


def held(part: dict[str, Any]) -> bool:
    """Whether a part is there."""
    return "missing" not in part

"""An export in which a file is damaged or exchanged, or a key of its records broken, is refused in one sentence."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from equipoise.common.digest import KEY
from equipoise.common.errors import UserError
from equipoise.export import golden_check
from equipoise.export.files import NOT_LOADED, open_record
from equipoise.export.serving_record import FILE_NAME
from equipoise.serving.recommender import Recommender

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "zeroed": lambda content: bytes(len(content)),
    "flipped": lambda content: (
        content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]
    ),
    "truncated": lambda content: content[: len(content) * 2 // 3],
    "emptied": lambda content: b"",
}


@pytest.fixture
def export(tiny_export: Callable[..., Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_export("bert").folder, tmp_path / "export"))


def vouched(export: Path) -> list[str]:
    """All files that serving.json vouches for, and itself."""
    return [*json.loads((export / FILE_NAME).read_text())["files"], FILE_NAME]


def test_every_file_is_vouched_for(export: Path) -> None:
    files = {path.relative_to(export).as_posix() for path in export.rglob("*") if path.is_file()}
    assert {name for name in files - {*vouched(export), "README.md"} if not name.startswith("base/")} == set()
    assert not list(export.rglob("__pycache__"))
    assert {path.stat().st_mode & 0o777 for path in export.rglob("*") if path.is_file()} == {0o644}
    open_record(export)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused(export: Path, damage: str) -> None:
    for name in vouched(export):
        path = export / name
        content = path.read_bytes()
        path.write_bytes(DAMAGE[damage](content))
        if not name.startswith(NOT_LOADED):
            with pytest.raises(UserError, match=r": (export|restore|run)"):
                open_record(export)
        with pytest.raises(SystemExit, match=r"not .* exported|cannot be read"):
            golden_check.main(export)
        golden_check.sha256.cache_clear()
        path.write_bytes(content)
    open_record(export)


def test_exchanged_heads_are_refused(export: Path) -> None:
    for one, other in (("ctr", "cvr"), ("diversity", "fairness")):
        (export / one).rename(export / "between")
        (export / other).rename(export / one)
        (export / "between").rename(export / other)
        with pytest.raises(UserError, match="is not the file that was exported"):
            Recommender.load(export)
        (export / one).rename(export / "between")
        (export / other).rename(export / one)
        (export / "between").rename(export / other)
    record = json.loads((export / FILE_NAME).read_text())
    objectives = record["objectives"]
    objectives["ctr"]["folder"], objectives["cvr"]["folder"] = objectives["cvr"]["folder"], objectives["ctr"]["folder"]
    (export / FILE_NAME).write_text(json.dumps(record))
    with pytest.raises(UserError, match="is not as it was written"):
        Recommender.load(export)


VALUES: list[Any] = [None, True, -1, 0, 1e308, "", "x", [], [None], {}, {"a": 1}, "../..", 10**30]


def mutated(record: Any, rng: random.Random) -> tuple[str, Any]:
    """A copy of a record with one value changed or left out, and where."""
    copy = json.loads(json.dumps(record))
    place, holder, path = copy, None, []
    while isinstance(place, dict | list) and place and (not path or rng.random() < 0.8):
        key = rng.choice(sorted(place)) if isinstance(place, dict) else rng.randrange(len(place))
        path.append(key)
        holder, place = place, place[key]
    assert holder is not None
    if isinstance(holder, dict) and rng.random() < 0.3:
        del holder[path[-1]]
    else:
        holder[path[-1]] = rng.choice(VALUES)
    return ".".join(map(str, path)), copy


@pytest.mark.parametrize("vouching", [True, False])
def test_broken_keys_are_one_sentence(export: Path, vouching: bool) -> None:
    """Every JSON file, also of an export of before, which vouches for nothing: there some changes fit."""
    rng = random.Random(7)
    record = json.loads((export / FILE_NAME).read_text())
    if not vouching:
        record = {key: value for key, value in record.items() if key not in ("files", KEY)}
        (export / FILE_NAME).write_text(json.dumps(record))
    files = [FILE_NAME] * 8 + [p.relative_to(export).as_posix() for p in export.rglob("*.json") if p.name != FILE_NAME]
    refused = 0
    for number in range(40 if vouching else 20):
        name = files[number % len(files)]
        text = (export / name).read_text()
        where, changed = mutated(json.loads(text), rng)
        if changed == json.loads(text) or (vouching and where == KEY and KEY not in changed):
            continue  # without its digest it is an export of before
        (export / name).write_text(json.dumps(changed))
        try:
            open_record(export) if vouching else Recommender.load(export)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 600, where
        else:
            assert not vouching or name.startswith((*NOT_LOADED, "base/")), f"{name}: {where} was not noticed"
        (export / name).write_text(text)
    assert refused >= (30 if vouching else 4)


def test_examples_that_are_no_requests_are_refused(export: Path) -> None:
    record = json.loads((export / FILE_NAME).read_text())
    (export / FILE_NAME).write_text(json.dumps({k: v for k, v in record.items() if k not in ("files", KEY)}))
    for text in ("[]\n", "{}\n", '{"candidates": 3}\n', "{\n"):
        (export / "examples.jsonl").write_text(text)
        with pytest.raises(UserError, match=r"examples\.jsonl is missing or broken"):
            Recommender.load(export)

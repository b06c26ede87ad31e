"""The soak test damages what it says, leaves nothing damaged behind, and counts what was taken silently."""

import random
from pathlib import Path

import yaml

from benchmarks.soak_corruption import WAYS, Tried, damaged
from benchmarks.soak_inputs import BAD, changed, leaves, try_inputs
from benchmarks.soak_work import Said


def test_every_file_is_damaged_in_every_way_and_mended(tmp_path: Path) -> None:
    files = {
        "a/one.bin": bytes(range(1, 200)),
        "a/two.bin": bytes(range(50, 120)),
        "text.json": b'{"a": 1, "b": [2, 3]}',
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    seen = set()
    for name, way in damaged(tmp_path, tuple(WAYS), random.Random(3)):
        assert (tmp_path / name).read_bytes() != files[name]
        assert all((tmp_path / other).read_bytes() == files[other] for other in files if other != name)
        seen.add((name, way))
    assert seen == {(name, way) for name in files for way in WAYS}
    assert all((tmp_path / name).read_bytes() == content for name, content in files.items())


def test_what_is_used_silently_counts_as_accepted() -> None:
    def tried(code: int, printed: str) -> Tried:
        return Tried("checkpoint", "engine/optimizer.pt", "zeroed", Said(code, printed))

    assert tried(0, "6 steps in 2 s").accepted
    assert not tried(0, "passed over: run/engine/optimizer.pt is not as it was written").accepted
    assert not tried(2, "error").accepted and not tried(2, "error").said.traceback
    assert tried(1, "KeyError").said.traceback and tried(-9, "").said.traceback


def test_bad_values_of_all_settings_are_tried(tmp_path: Path) -> None:
    settings = {"name": "x", "train": {"lr": 0.1}}
    assert list(leaves(settings)) == [("name",), ("train",), ("train", "lr")]
    assert changed(settings, ("train", "lr"), None) == {"name": "x", "train": {"lr": None}}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"name": "x", "seed": 1}))
    assert try_inputs(config, tmp_path, None) == (2 * len(BAD), [])
    assert len(BAD) * 30 > 600  # settings of the soak test's own config: more than 30

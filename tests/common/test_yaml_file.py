"""YAML is read strictly: nothing wins silently, and no file exhausts memory or the stack."""

from pathlib import Path

import pytest

from equipoise.common.errors import UserError
from equipoise.common.yaml_file import MOST_BYTES, read_yaml

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
BAD = {
    "name: a\ntrain: {lr: 1}\nname: b\n": "key 'name' stands in line 1 and again in line 3",
    "train:\n  lr: 1\n  seed: 2\n  lr: 3\n": "key 'lr' stands in line 2 and again in line 4",
    "train: {lr: 1, 'lr': 2}": "key 'lr' stands in line 1",
    BOMB: "more than 200,000 values",
    "a: " + "[" * 5_000 + "]" * 5_000: "nested more than 40 deep",
    "a: " + "{b: " * 100 + "1" + "}" * 100: "nested more than 40 deep",
    "\n".join(f"{'  ' * n}k{n}:" for n in range(60)): "nested more than 40 deep",
    "when: 2024-13-45": "cannot be read as YAML",
    "a: *nowhere": "cannot be read as YAML",
    "x" * (MOST_BYTES + 1): "larger than 4 MiB",
    "!!python/object:os.system {}": "cannot be read as YAML",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_what_cannot_be_meant_is_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        read_yaml(path, "correct the file")
    assert BAD[text] in str(refused.value) and "run.yaml" in str(refused.value)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


def test_aliases_and_merged_keys_are_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("base: &base {lr: 1, seed: 2}\ntrain: {<<: *base, lr: 3}\nother: *base\n")
    assert read_yaml(path, "")["train"] == {"lr": 3, "seed": 2}

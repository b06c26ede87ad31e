"""The schema of a sweep: what it reads, and how it refuses."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from equipoise.common.errors import UserError
from equipoise.configs.load import _apply, as_override
from equipoise.sweep.config import SweepConfig, load_sweep

SOUND: dict[str, Any] = {"name": "s", "base": "configs/demo.yaml", "output": "runs/s", "seeds": [1]}
LR = {"train.lr": {"uniform": [0, 1]}}


def load(tmp_path: Path, **settings: Any) -> SweepConfig:
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**SOUND, **settings}))
    return load_sweep(tmp_path / "sweep.yaml")


def test_numbers_are_read_as_on_the_command_line(tmp_path: Path) -> None:
    text = "grid: {train.lr: [1e-4, 3e-2], m: {a: {balancing.options: {c: 5e-1}}}}\n"
    random = "random: {count: 1, draw: {train.head_lr: {log_uniform: [1e-4, 1e-2]}}}\n"
    (tmp_path / "sweep.yaml").write_text("name: s\nbase: b\noutput: o\n" + text + random)
    sweep = load_sweep(tmp_path / "sweep.yaml")
    assert sweep.grid == {"train.lr": [1e-4, 3e-2], "m": {"a": {"balancing.options": {"c": 0.5}}}}
    assert sweep.random is not None and sweep.random.draw["train.head_lr"].log_uniform == (1e-4, 1e-2)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"seeds": []}, "nothing is varied: add grid, runs, random or seeds"),
        ({"gird": {}}, "unknown key 'gird': did you mean 'grid'"),
        ({"name": "a/b"}, "'a/b' names a folder"),
        ({"seeds": [3, 3]}, "seeds names one twice"),
        ({"grid": {"seed": [1, 2]}}, "grid.seed and seeds both set 'seed'"),
        ({"grid": {"train.lr": [1], "m": {"a": {"train": {}}}}}, "grid.m and grid.train.lr both set 'train'"),
        ({"grid": {"train.lr": [1]}, "random": {"count": 1, "draw": LR}}, "both set 'train.lr'"),
        ({"runs": [{"seed": 4}]}, "both set 'seed'"),
        ({"grid": {"train.lr": []}}, "'train.lr' needs a list of values, or labels with settings"),
        ({"grid": {"m": {"a": 3}}}, "'m.a' needs settings"),
        ({"grid": {"m": {"a b": {}}}}, "'a b' names a folder"),
        ({"runs": [{"name": "../x"}]}, "'../x' names a folder"),
        ({"settings": {"output": "x"}}, "'output' is set by the sweep"),
        ({"grid": {"name": ["x"]}}, "'name' is set by the sweep"),
        ({"settings": {"wandb.group": "x"}}, "'wandb.group' is set by the sweep"),
        ({"random": {"count": 1, "draw": {"x": {"uniform": [1, 0]}}}}, "uniform needs its lower bound first"),
        ({"random": {"count": 1, "draw": {"x": {"log_uniform": [0, 1]}}}}, "log_uniform needs bounds above 0"),
        ({"random": {"count": 1, "draw": {"x": {}}}}, "give one of uniform, log_uniform, integers and choice"),
        ({"wandb": {"method": "bayes"}}, "need a metric"),
        ({"slurm": {"options": {"--time": "1"}}}, "written without its dashes: time"),
        ({"slurm": {"options": {"array": "1"}}}, "'array' is set by the sweep"),
        ({"evaluate": {"split": "train"}}, "evaluate.split"),
    ],
)
def test_faults_are_told_in_a_sentence(settings: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        load(tmp_path, **settings)
    assert told in str(refused.value) and "\n" not in str(refused.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=6,
)


@given(VALUES)
def test_override_is_read_back_as_the_same_value(value: Any) -> None:
    raw: dict[str, Any] = {}
    _apply(raw, as_override("a.b", value))
    read = raw["a"]["b"]
    if isinstance(value, str) and read != value:
        assert float(value) == read  # a text such as 3e-4, which the command line means as a number
    else:
        assert read == value


def test_quoted_number_stays_a_text(tmp_path: Path) -> None:
    raw: dict[str, Any] = {}
    _apply(raw, "a='12'")
    assert raw == {"a": "12"}


@pytest.mark.parametrize("name", ["sweep_demo", "sweep_simulator"])
def test_examples_are_three_by_three_by_two(name: str) -> None:
    sweep = load_sweep(Path(f"configs/{name}.yaml"))
    assert [len(axis) for axis in sweep.grid.values()] == [3, 3] and len(sweep.seeds) == 2
    assert sweep.after == "compare" and sweep.evaluate is not None

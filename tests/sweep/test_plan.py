"""The plan of a sweep, written down by hand."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from equipoise.common.errors import UserError
from equipoise.configs.schema import RunConfig
from equipoise.sweep.config import RandomConfig, load_sweep
from equipoise.sweep.plan import (
    LONGEST_NAME,
    PlannedRun,
    draw_settings,
    join_name,
    make_plan,
    same_settings,
    short_keys,
    value_text,
)
from tests.tiny_run import run_settings, write_config


def plan_of(folder: Path, **settings: Any) -> list[PlannedRun]:
    base = write_config(run_settings(folder), folder / "config.yaml")
    common = {"name": "tiny", "base": str(base), "output": str(folder / "sweep")}
    (folder / "sweep.yaml").write_text(yaml.safe_dump({**common, **settings}, sort_keys=False))
    return make_plan(load_sweep(folder / "sweep.yaml"))


def test_grid_of_sets_and_values_with_listed_runs_and_seeds(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        settings={"train.max_steps": 9, "train.lr": "1e-4"},
        grid={
            "method": {"plain": {"balancing.method": "weighted"}, "averse": {
                "balancing.method": "cagrad", "balancing.options": {"c": 0.3}}},
            "objectives.ctr.weight": [1, 2.5],
        },
        runs=[{"name": "fast", "train.lr": "3e-2"}, {"train.lr": 0.5, "lora.rank": 2}, {}],
        seeds=[5, 7],
    )  # fmt: skip
    assert [run.name for run in plan] == [
        "plain_weight-1_seed-5", "plain_weight-1_seed-7", "plain_weight-2.5_seed-5", "plain_weight-2.5_seed-7",
        "averse_weight-1_seed-5", "averse_weight-1_seed-7", "averse_weight-2.5_seed-5", "averse_weight-2.5_seed-7",
        "fast_seed-5", "fast_seed-7", "lr-0.5_rank-2_seed-5", "lr-0.5_rank-2_seed-7", "base_seed-5", "base_seed-7",
    ]  # fmt: skip
    assert [run.index for run in plan] == list(range(14))
    averse, fast = plan[7].config, plan[8].config
    assert averse.balancing.method == "cagrad" and averse.balancing.options == {"c": 0.3}
    assert averse.objectives.ctr is not None and averse.objectives.ctr.weight == 2.5 and averse.seed == 7
    assert {run.config.train.max_steps for run in plan} == {9}
    assert averse.train.lr == 1e-4 and fast.train.lr == 3e-2  # a run wins over what is common
    assert averse.output == tmp_path / "sweep" / averse.name and averse.wandb.group == "tiny"
    assert plan[7].overrides == (
        "train.max_steps=9", "train.lr=0.0001", "balancing.method=cagrad", "balancing.options={c: 0.3}",
        "objectives.ctr.weight=2.5", "seed=7",
    )  # fmt: skip


def test_every_draw_meets_every_cell(tmp_path: Path) -> None:
    random = {"count": 3, "draw": {"train.lr": {"log_uniform": [1e-4, 1e-2]}}}
    plan = plan_of(tmp_path, grid={"lora.rank": [2, 4]}, random=random)
    assert [run.config.lora.rank for run in plan] == [2, 2, 2, 4, 4, 4]
    rates = [run.config.train.lr for run in plan]
    assert rates[:3] == rates[3:] and len(set(rates)) == 3
    assert [run.name for run in plan] == [
        f"rank-{rank}_lr-{value_text(rate)}" for rank, rate in zip([2, 2, 2, 4, 4, 4], rates, strict=True)
    ]


def random_of(count: int = 2000, **draw: Any) -> RandomConfig:
    return RandomConfig.model_validate({"count": count, "draw": draw})


def test_draws_are_within_bounds_and_spread() -> None:
    draws = draw_settings(random_of(a={"log_uniform": [1e-4, 1e-2]}, b={"uniform": [-1, 3]}, c={"integers": [2, 5]}))
    logs = [math.log10(draw["a"]) for draw in draws]
    assert all(-4 <= log <= -2 for log in logs)
    assert abs(sum(log < -3 for log in logs) / len(logs) - 0.5) < 0.05  # half of the draws in each decade
    assert all(-1 <= draw["b"] <= 3 for draw in draws) and abs(sum(draw["b"] for draw in draws) / len(draws) - 1) < 0.1
    assert {draw["c"] for draw in draws} == {2, 3, 4, 5}
    assert all(float(f"{draw['a']:.4g}") == draw["a"] for draw in draws)


def test_draws_stay_when_more_are_asked_for() -> None:
    few = draw_settings(random_of(3, a={"uniform": [0, 1]}))
    more = draw_settings(random_of(8, z={"choice": ["x", "y"]}, a={"uniform": [0, 1]}))
    assert [draw["a"] for draw in more[:3]] == [draw["a"] for draw in few]
    assert len(draw_settings(random_of(50, z={"choice": ["x", "y"]}))) == 2  # repeated draws are one run


def test_refused_combination_is_named_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        plan_of(tmp_path, grid={"balancing.method": ["mgda", "magic"], "train.batch_size": [4, -1]})
    assert str(refused.value).startswith("run method-mgda_batch_size--1 [balancing.method=mgda, train.batch_size=-1]: ")
    assert "key 'train.batch_size'" in str(refused.value) and "2 of 4 other combinations" in str(refused.value)


def test_names_meet_only_by_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two runs are both called 'rank-4'"):
        plan_of(tmp_path, grid={"lora.rank": [4]}, runs=[{"lora.rank": 4}])
    plan = plan_of(tmp_path, runs=[{"name": "one"}, {"name": "two", "lora.rank": 4}, {"name": "other", "lora.rank": 8}])
    assert same_settings(plan) == [["one", "two"]]  # the tiny run has rank 4 anyway


def test_short_keys_are_the_shortest_ends_that_differ() -> None:
    assert short_keys(["train.lr", "objectives.ctr.weight", "objectives.cvr.weight", "seed"]) == {
        "train.lr": "lr",
        "objectives.ctr.weight": "ctr.weight",
        "objectives.cvr.weight": "cvr.weight",
        "seed": "seed",
    }
    assert short_keys(["lr", "train.lr"]) == {"lr": "lr", "train.lr": "train.lr"}


def test_values_become_parts_of_folder_names() -> None:
    assert [value_text(value) for value in (1e-05, 0.1, 3, True, None, "pkg://a/b c")] == [
        "1e-05", "0.1", "3", "true", "null", "pkg-a-b-c"
    ]  # fmt: skip
    assert value_text([1, 2]) != value_text([2, 1]) and len(value_text({"c": 0.3})) == 8
    assert value_text("x" * 80) != value_text("x" * 81)
    long = [join_name(["part" * 20] * count) for count in (3, 4)]
    assert long[0] != long[1] and all(len(name) <= LONGEST_NAME for name in long)


def test_plan_is_fast_enough_for_hundreds(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, grid={"train.lr": [n / 1000 for n in range(1, 101)], "lora.rank": [1, 2]})
    assert len(plan) == 200 and all(isinstance(run.config, RunConfig) for run in plan)


@pytest.mark.parametrize(("name", "runs"), [("sweep_demo", 18), ("sweep_simulator", 18), ("sweep_adapters", 12)])
def test_examples_are_valid(name: str, runs: int) -> None:
    assert len(make_plan(load_sweep(Path(f"configs/{name}.yaml")))) == runs

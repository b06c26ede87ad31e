"""Sweeps with several goals: what is proposed, that it beats independent draws, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from equipoise.common.errors import UserError
from equipoise.evaluation.front.pareto import hypervolume
from equipoise.launch.sweep_search import front_table, results, run_search, search_plan, write_front
from equipoise.sweep.config import RandomConfig, SweepConfig
from equipoise.sweep.plan import PlannedRun, draw_settings
from equipoise.sweep.search import FILE_NAME, encode, propose, read_proposed
from tests.sweep.conftest import StandInSweep
from tests.tiny_run import run_settings, write_config

DRAW = {
    "train.lr": {"log_uniform": [1e-4, 1e-1]},
    "train.warmup": {"uniform": [0.0, 0.5]},
    "lora.rank": {"integers": [1, 16]},
    "balancing.method": {"choice": ["weighted", "pcgrad"]},
}
RANDOM = RandomConfig.model_validate({"count": 20, "seed": 3, "draw": DRAW})


def goals_of(draw: dict[str, Any]) -> np.ndarray:
    """Two smooth goals that conflict in the learning rate; the warm-up has one best value, the rank hardly matters."""
    at = (np.log10(draw["train.lr"]) + 4) / 3
    loss = (
        (draw["train.warmup"] - 0.1) ** 2 * 8 + 0.001 * draw["lora.rank"] + 0.3 * (draw["balancing.method"] != "pcgrad")
    )
    return np.array([-((at - 0.3) ** 2) - loss, -((at - 0.6) ** 2) - loss])


def volume(draws: list[dict[str, Any]]) -> float:
    return hypervolume(np.array([goals_of(draw) for draw in draws]), np.array([-1.0, -1.0]))


def test_proposals_reach_further_than_independent_draws() -> None:
    independent = draw_settings(RANDOM)
    draws = independent[:8]
    for number in range(12):
        proposed = propose(RANDOM, draws, np.array([goals_of(draw) for draw in draws]), number)
        assert proposed is not None and proposed not in draws
        draws.append(proposed)
    assert len(draws) == len(independent) == 20
    assert volume(draws) > volume(independent) + 0.02
    assert sum(draw["balancing.method"] == "pcgrad" for draw in draws[8:]) >= 9


def test_a_proposal_is_the_same_again_and_passes_over_draws_without_results() -> None:
    draws = draw_settings(RANDOM)[:6]
    values = np.array([goals_of(draw) for draw in draws])
    first = propose(RANDOM, draws, values, 0)
    assert propose(RANDOM, draws, values, 0) == first
    failed = {**draws[0], "train.warmup": 0.25}
    holed = np.concatenate([values, [[np.nan, 1.0]]])
    assert propose(RANDOM, [*draws, failed], holed, 0) == first
    assert propose(RANDOM, draws, np.full((6, 2), np.nan), 0) not in draws  # nothing is known yet


def test_a_space_that_is_used_up_ends() -> None:
    small = RandomConfig.model_validate({"count": 9, "draw": {"lora.rank": {"choice": [4, 8]}}})
    tried = [{"lora.rank": 4}, {"lora.rank": 8}]
    assert propose(small, tried, np.array([[0.0, 1.0], [1.0, 0.0]]), 0) is None


def test_draws_become_numbers_between_zero_and_one() -> None:
    draw = {"train.lr": 1e-1, "train.warmup": 0.25, "lora.rank": 1, "balancing.method": "pcgrad"}
    assert encode(RANDOM, draw) == pytest.approx([1.0, 0.5, 0.0, 0.0, 1.0])


def sweep_config(folder: Path, **changes: Any) -> SweepConfig:
    base = write_config(run_settings(folder, max_steps=3), folder / "config.yaml")
    settings = {
        "name": "two", "base": str(base), "output": str(folder / "sweep"), "evaluate": {"split": "test"},
        "seeds": [1, 2],
        "random": {"count": 6, "draw": {"train.lr": DRAW["train.lr"], "train.warmup": DRAW["train.warmup"]}},
        "search": {"goals": ["ctr/auc", {"metric": "ctr/ne", "goal": "minimize"}], "start": 4},
    }  # fmt: skip
    return SweepConfig.model_validate({**settings, **changes})


def stand_in(plan: list[PlannedRun]) -> None:
    """Evaluate what is not evaluated yet, by a formula of the settings."""
    for run in plan:
        run.folder.mkdir(parents=True, exist_ok=True)
        train, seed = run.config.train, run.config.seed
        auc, loss = goals_of(
            {"train.lr": train.lr, "train.warmup": train.warmup, "lora.rank": 1, "balancing.method": ""}
        )
        report = {"pointwise": {"ctr": {"auc": auc + 0.01 * seed, "ne": -loss}}}
        (run.folder / "evaluation_test.json").write_text(json.dumps(report))


def test_a_search_goes_on_where_it_was_and_ends_with_its_front(tmp_path: Path) -> None:
    sweep, said, ran = sweep_config(tmp_path), [], []

    def execute(plan: list[PlannedRun]) -> None:
        ran.append(len(plan))
        stand_in(plan)

    assert len(search_plan(sweep)) == 8  # four draws, two seeds
    plan = run_search(sweep, execute, 1, said.append)
    assert ran == [8, 10, 12] and len(plan) == 12 and len(said) == 2
    assert [run.name for run in plan] == [run.name for run in search_plan(sweep)]  # a second start repeats nothing
    found = results(sweep, plan)
    assert found.values.shape == (6, 2) and found.signs.tolist() == [1, -1]
    first = [json.loads((tmp_path / "sweep" / name / "evaluation_test.json").read_text()) for name in found.names[0]]
    assert found.values[0, 0] == pytest.approx(np.mean([each["pointwise"]["ctr"]["auc"] for each in first]))
    best = int(np.argmax(found.values[:, 0]))
    assert found.front[0] == best and int(np.argmin(found.values[:, 1])) in found.front
    assert front_table(found).row_count == len(found.front)
    picture = write_front(found, sweep.output)
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows = json.loads((sweep.output / "front.json").read_text())
    assert [row["draw"] for row in rows if row["on_front"]] == sorted(found.front)
    grown = sweep_config(tmp_path, random={**sweep.random.model_dump(exclude_none=True), "count": 7})
    assert read_proposed(grown) == read_proposed(sweep)  # more draws go on with the search
    with pytest.raises(UserError, match=r"search\.json is of a search with other draws or goals"):
        read_proposed(sweep_config(tmp_path, seeds=[1]))
    (sweep.output / FILE_NAME).write_text("{")
    with pytest.raises(UserError, match="cannot be read: remove it"):
        read_proposed(sweep)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": {"goals": ["ctr/auc"]}}, "at least 2"),
        ({"search": {"goals": ["ctr/auc", "ctr/auc"]}}, "names a metric twice"),
        ({"evaluate": None}, "search proposes draws from evaluations: add evaluate"),
        ({"random": None}, "search proposes draws from evaluations: add random"),
        ({"grid": {"lora.rank": [4, 8]}}, "search varies random.draw alone: move what grid sets there"),
    ],
)
def test_a_search_needs_draws_and_evaluations(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        sweep_config(tmp_path, **changes)


@pytest.mark.parametrize(
    ("goal", "message"),
    [("ctr/auk", "has no metric 'ctr/auk'"), ("ctr/predicted", "neither way of ctr/predicted is better")],
)
def test_goals_that_cannot_be_judged_are_refused(tmp_path: Path, goal: str, message: str) -> None:
    sweep = sweep_config(tmp_path, search={"goals": ["ctr/ne", goal], "start": 4})
    plan = search_plan(sweep)
    for run in plan:
        run.folder.mkdir(parents=True)
        report = {"pointwise": {"ctr": {"ne": 0.9, "predicted": 0.1}}}
        (run.folder / "evaluation_test.json").write_text(json.dumps(report))
    with pytest.raises(UserError, match=message):
        results(sweep, plan)


@pytest.mark.parametrize("option", ["--slurm", "--wandb-agent"])
def test_a_search_runs_on_this_machine_alone(sweep: StandInSweep, option: str) -> None:
    random = {"count": 6, "draw": {"train.lr": DRAW["train.lr"]}}
    sweep.write(random=random, search={"goals": ["ctr/auc", "ctr/ne"]})
    from equipoise.launch.sweep import run_sweep
    from equipoise.sweep.options import SweepOptions

    options = {"--slurm": SweepOptions(slurm=True), "--wandb-agent": SweepOptions(wandb_agent=True)}[option]
    with pytest.raises(UserError, match=f"{option}: search proposes runs"):
        run_sweep(sweep.file, options)

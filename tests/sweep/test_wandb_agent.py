"""W&B's own schema takes the configuration, and W&B's own agent drives runs with it."""

import os
import queue
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from equipoise.common.errors import UserError
from equipoise.sweep.config import load_sweep
from equipoise.sweep.plan import make_plan
from equipoise.sweep.wandb_agent import plan_trial, wandb_settings
from tests.sweep.conftest import ROOT, StandInSweep

METHODS = {
    "plain": {"balancing.method": "weighted"},
    "averse": {"balancing.method": "cagrad", "balancing.options": {"c": 0.3}},
}
OFFLINE = {"wandb.mode": "offline", "train.eval_every": 2}


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """What the agent puts into the environment for its run (WANDB_RUN_ID, …) must not reach the tests after it."""
    before = dict(os.environ)
    yield
    for key in os.environ.keys() - before.keys():
        del os.environ[key]
    os.environ.update(before)


def settings_of(sweep: StandInSweep) -> dict[str, Any]:
    loaded = load_sweep(sweep.file)
    return wandb_settings(loaded, sweep.file, make_plan(loaded)[0].config)


def test_every_kind_of_space_fulfils_the_schema_of_wandb(sweep: StandInSweep) -> None:
    from sweeps.config.cfg import schema_violations_from_proposed_config as violations

    draw = {
        "train.lr": {"log_uniform": [1e-4, 1e-2]}, "train.warmup": {"uniform": [0, 0.5]},
        "lora.rank": {"integers": [2, 8]}, "train.negatives": {"choice": [2, 4]},
    }  # fmt: skip
    metric = {"metric": {"name": "valid/ctr/auc", "goal": "maximize"}}
    stop = {"early_terminate": {"type": "hyperband", "min_iter": 3}}
    sweep.write(
        grid={"method": METHODS, "objectives.ctr.weight": [1, 2.5]},
        random={"count": 3, "draw": draw},
        seeds=[1, 2],
        settings=OFFLINE,
        wandb={"method": "bayes", **metric, **stop},
    )
    found = settings_of(sweep)
    assert violations(found) == []
    assert found["parameters"] == {
        "method": {"values": ["plain", "averse"]},
        "objectives.ctr.weight": {"values": [1, 2.5]},
        "train.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
        "train.warmup": {"distribution": "uniform", "min": 0.0, "max": 0.5},
        "lora.rank": {"distribution": "int_uniform", "min": 2, "max": 8},
        "train.negatives": {"values": [2, 4]},
        "seed": {"values": [1, 2]},
    }
    assert violations({**found, "method": "guess"}), "a check that takes everything checks nothing"
    sweep.write(runs=[{"name": "a"}, {"train.lr": 0.1}], settings=OFFLINE)
    found = settings_of(sweep)
    assert violations(found) == [] and found["parameters"] == {"run": {"values": ["a", "lr-0.1"]}}


@pytest.mark.slow
def test_agent_of_wandb_drives_runs(sweep: StandInSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real agent, with answers in place of its server."""
    from wandb import wandb_agent
    from wandb.apis.public import sweeps as public

    sweep.write(grid={"method": METHODS}, seeds=[1, 2], settings=OFFLINE)
    assert sweep.run("--wandb-agent")[0] == 0
    config = (sweep.output / "wandb_sweep.yaml").read_text()
    program = yaml.safe_load(config)["program"]
    commands = [
        {"type": "run", "run_id": f"id{n}", "program": program, "args": {k: {"value": v} for k, v in args.items()}}
        for n, args in enumerate([{"method": "averse", "seed": 2}, {"method": "plain", "seed": 1}])
    ]

    def heartbeat(api: Any, agent: str, metrics: dict[str, Any], running: dict[str, bool]) -> list[dict[str, Any]]:
        """One run after the other, then nothing more."""
        return [] if running or not commands else [commands.pop(0)]

    monkeypatch.setattr(public, "_sweep_with_runs", lambda *_, **__: {"config": config})
    monkeypatch.setattr(public, "_register_agent", lambda *_, **__: {"id": "agent"})
    monkeypatch.setattr(public, "_agent_heartbeat", heartbeat)
    monkeypatch.setattr(wandb_agent.wandb, "teardown", lambda *_: None)
    monkeypatch.setattr(wandb_agent.wandb, "Api", lambda: None)
    monkeypatch.setattr(wandb_agent.Agent, "REPORT_INTERVAL", 0)
    monkeypatch.setattr(wandb_agent.Agent, "POLL_INTERVAL", 0.05)
    monkeypatch.chdir(ROOT)
    for key, value in {**sweep.environment, "WANDB_DIR": str(sweep.folder), "WANDB_SWEEP_ID": "s1"}.items():
        monkeypatch.setenv(key, value)
    wandb_agent.Agent(None, queue.Queue(), sweep_id="s1", count=2).run()

    assert [call.split()[0] for call in sweep.calls("averse_seed-2_id0")] == ["train", "evaluate"]
    assert [call.split()[0] for call in sweep.calls("plain_seed-1_id1")] == ["train", "evaluate"]
    config = sweep.record("averse_seed-2_id0")["config"]
    assert config["balancing"]["options"] == {"c": 0.3} and config["seed"] == 2
    assert config["wandb"]["group"] == "tiny" and config["wandb"]["mode"] == "offline"


def test_trial_reads_values_as_wandb_writes_them(sweep: StandInSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    sweep.write(grid={"method": METHODS}, settings=OFFLINE)
    values = {
        "method": "averse", "train.lr": 1e-05, "train.save_every": None, "tensorboard": True,
        "evaluate.cutoffs": [3, 7], "objectives.fairness": {"weight": 0.5, "target": "merit"},
    }  # fmt: skip
    written = create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
    config = plan_trial(load_sweep(sweep.file), written["args_no_hyphens"]).config
    assert config.train.lr == 1e-05 and config.train.save_every is None and config.tensorboard is True
    assert config.evaluate.cutoffs == [3, 7] and config.objectives.fairness is not None
    assert config.objectives.fairness.target == "merit" and config.balancing.method == "cagrad"
    with pytest.raises(UserError, match="method has no 'other': name one of plain, averse"):
        plan_trial(load_sweep(sweep.file), ["method=other"])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"seeds": [1]}, "wandb.mode is disabled"),
        ({"seeds": [1], "runs": [{"name": "a"}], "grid": {"lora.rank": [4]}, "settings": OFFLINE}, "one space"),
        (
            {"random": {"count": 2, "draw": {"lora.rank": {"choice": [2]}}}, "wandb": {"method": "grid"},
             "settings": OFFLINE},
            "grid cannot go through",
        ),
        (
            {"seeds": [1], "settings": {"wandb.mode": "offline"},
             "wandb": {"metric": {"name": "valid/ctr/auc", "goal": "maximize"}}},
            "train.eval_every",
        ),
    ],
)  # fmt: skip
def test_what_wandb_could_not_do_is_refused(sweep: StandInSweep, settings: dict[str, Any], told: str) -> None:
    sweep.write(**settings)
    with pytest.raises(UserError, match=told):
        settings_of(sweep)

"""Two real processes: bit-equal weights for every method, the bytes exchanged, and the parameter levels."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from equipoise.configs.balancing import METHOD_OPTIONS
from equipoise.train.build_locks import build_root
from tests.distributed.conftest import accelerate

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

OPTIONS: dict[str, dict[str, Any]] = {
    "epsilon_constraint": {"bounds": {"ctr": 0.5}},
    "torchjd:FairGrad": {"alpha": 1.0},
}
METHODS = [*METHOD_OPTIONS, "torchjd:UPGrad", "torchjd:Random", "torchjd:FairGrad"]
VARIANTS: dict[str, dict[str, Any]] = {
    "layers": {"method": "mgda", "level": {"layers": 1}},
    "parameters": {"method": "cagrad", "level": "parameters"},
    "unbiased": {"method": "pcgrad", "level": "parameters", "unbiased": True},
    "reused": {"method": "upgrad", "balance_every": 5},
    "smoothed": {"method": "mgda", "gram_ema": 0.9},
}

NO_FAIRNESS = "objectives.fairness=false"
"""Its gradient is 2,000 times shorter here, so that float32's rounding of it is all that a comparison would see."""


MAP = "balancing.map=[category,age]"


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    """Per rank and configuration what 100 balanced steps of two processes left."""
    folder = tmp_path_factory.mktemp("weights")
    settings = {name: {"method": name, "options": OPTIONS.get(name, {})} for name in METHODS} | VARIANTS
    job = [str(Path(__file__).with_name("weights_job.py")), str(folder), *map(json.dumps, settings.values())]
    done = accelerate("cpu_ddp2", *job, ACCELERATE_USE_CPU="true")
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]
    return [dict(zip(settings, record, strict=True)) for record in records]


@pytest.mark.parametrize("name", [*METHODS, *VARIANTS])
def test_weights_are_bit_equal_on_both_ranks_over_100_steps(name: str, ranks: list[dict[str, Any]]) -> None:
    one, two = ranks[0][name], ranks[1][name]
    assert len(one["weights"]) == 100
    assert one["weights"] == two["weights"]
    assert one["trunk"] == two["trunk"]
    weights = [[float.fromhex(value) for value in step] for step in one["weights"]]
    assert any(value != 0 for value in weights[-1])
    fixed = {"weighted"}
    assert (len({tuple(step) for step in weights}) > 3) != (name in fixed), "the weights should follow the gradients"


def test_methods_decide_differently(ranks: list[dict[str, Any]]) -> None:
    last = {name: tuple(ranks[0][name]["weights"][-1]) for name in METHODS}
    assert len(set(last.values())) == len(METHODS)


def test_the_wire_carries_the_gram_matrix_and_the_weights(ranks: list[dict[str, Any]]) -> None:
    """K² float64 summed and K broadcast; with weights reused only K, in four steps of five."""
    measured = [["sum", 3 * 3 * 8], ["broadcast", 3 * 8]]
    for name in METHODS:
        for rank in ranks:
            assert all(step == measured for step in rank[name]["sent"]), name
    reused = ranks[0]["reused"]["sent"]
    assert reused == [measured if step % 5 == 0 else [["sum", 3 * 8]] for step in range(100)]
    parameters = 12 * 12 + 12
    assert ranks[0]["layers"]["sent"][0] == [["sum", 3 * parameters * 4], ["broadcast", 3 * 8]]
    assert ranks[0]["unbiased"]["sent"][0] == [
        ["sum", 3 * 2 * parameters * 4],
        ["sum", 3 * 3 * 8],
        ["broadcast", 3 * 8],
    ]


@pytest.fixture(scope="module")
def alone(launch: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One process with the whole global batch, per level."""
    folder = tmp_path_factory.mktemp("alone")
    levels = {"parameters": "parameters", "layers": "{layers: 1}"}
    return {
        name: launch(None, folder / name, "train.batch_size=4", NO_FAIRNESS, f"balancing.level={level}", MAP)
        for name, level in levels.items()
    }


@pytest.mark.parametrize(
    ("engine", "level", "more"),
    [
        ("cpu_ddp2", "parameters", ()),
        ("cpu_ddp2", "parameters", ("backbone.checkpointing=true",)),
        ("cpu_ddp2", "layers", ()),
        ("cpu_zero2", "parameters", ()),
        ("cpu_zero2", "parameters", ("backbone.checkpointing=true",)),
    ],
)
def test_parameter_levels_agree_with_one_process(
    engine: str, level: str, more: tuple[str, ...], launch: Any, alone: dict[str, Any], tmp_path: Path
) -> None:
    value = "{layers: 1}" if level == "layers" else level
    job = launch(engine, tmp_path / "run", "train.batch_size=2", NO_FAIRNESS, f"balancing.level={value}", MAP, *more)
    assert job.code == 0, job.printed
    assert alone[level].code == 0, alone[level].printed
    for one, two in zip(alone[level].metrics(), job.metrics(), strict=True):
        keys = [key for key in one if key.startswith(("balance/weight", "balance/norm", "balance/cosine"))]
        assert len(keys) == (3 + 3 + 3 if one["step"] > 1 else 3 + 3 + 1)  # δ = 0 has no slope below its head yet
        for key in keys:
            assert two[key] == pytest.approx(one[key], rel=1e-5, abs=1e-5), (one["step"], key)
    for name, tensor in alone[level].adapters().items():
        assert (tensor - job.adapters()[name]).abs().max() <= 1e-5, name
    maps = [json.loads((each.folder / "conflicts.json").read_text()) for each in (alone[level], job)]
    assert {row["column"] for row in maps[0]} == {"category", "age"} and len(maps[0]) == len(maps[1])
    for one, two in zip(*maps, strict=True):
        assert two["candidates"] == one["candidates"] and two["value"] == one["value"]
        assert (two["cosine"], two["z"]) == pytest.approx((one["cosine"], one["z"]), abs=1e-3)


def test_the_level_is_not_the_boundary(alone: dict[str, Any], launch: Any, tmp_path: Path) -> None:
    boundary = launch(None, tmp_path / "run", "train.batch_size=4", NO_FAIRNESS).metrics()
    for level in ("parameters", "layers"):
        found = alone[level].metrics()
        assert found[0]["balance/cosine/ctr-cvr"] != pytest.approx(boundary[0]["balance/cosine/ctr-cvr"], abs=1e-3)


@pytest.mark.parametrize("setting", ["balancing.level=parameters", "balancing.probe_every=2"])
def test_zero3_refuses_what_it_cannot_compare(setting: str, launch: Any, tmp_path: Path) -> None:
    # And a lock that a killed job left in torch's folder of extensions stops no DeepSpeed job.
    lock = build_root() / f"left_by_{setting}" / "lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    os.utime(lock, (0, 0))
    job = launch("cpu_zero3", tmp_path / "run", "train.batch_size=2", setting)
    assert f"removed {lock}" in job.printed and not lock.exists()
    lock.parent.rmdir()
    assert job.code != 0
    assert "under ZeRO-3 each process holds pieces of the trunk" in job.printed
    assert "launch with ZeRO-2" in job.printed
    assert "Traceback" not in job.printed.split("under ZeRO-3")[0]

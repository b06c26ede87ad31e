"""The recall objective under DDP and ZeRO: the same losses and the same adapters, and a resumed run is the same run."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.forked_job import run_forked

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

SETTINGS = (
    "train.batch_size=2",
    "objectives.diversity=false",
    "objectives.fairness=false",
    "objectives.recall={shoppers: 6, negatives: 5, dimension: 16}",
)


@pytest.fixture(scope="module")
def ddp(launch: Any, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run of two DDP processes, with checkpoints."""
    made = run_forked(["tokenize", str(tiny_config), *SETTINGS])  # a job of several processes makes no sources
    assert made.returncode == 0, made.stderr
    job = launch("cpu_ddp2", tmp_path_factory.mktemp("ddp") / "run", *SETTINGS, "train.save_every=3")
    assert job.code == 0, job.printed
    return job


@pytest.mark.parametrize("engine", ["cpu_zero2", "cpu_zero3"])
def test_engines_agree(engine: str, launch: Any, ddp: Any, tmp_path: Path) -> None:
    job = launch(engine, tmp_path / "run", *SETTINGS)
    assert job.code == 0, job.printed
    for one, two in zip(ddp.metrics(), job.metrics(), strict=True):
        assert two["train/loss/recall"] == pytest.approx(one["train/loss/recall"], rel=2e-5)
    tensors = job.adapters()
    assert any(name.startswith("heads.recall.") for name in tensors)
    for name, tensor in ddp.adapters().items():
        assert (tensor - tensors[name]).abs().max() <= 1e-5, name


def test_resumed_run_is_the_same_run(launch: Any, ddp: Any, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    shutil.copytree(ddp.folder, killed)
    shutil.rmtree(killed / "checkpoints" / "step-000006")
    shutil.rmtree(killed / "adapters")
    job = launch("cpu_ddp2", killed, *SETTINGS, "train.save_every=3", "--resume")
    assert job.code == 0, job.printed
    for name, tensor in ddp.adapters().items():
        assert (tensor == job.adapters()[name]).all(), name

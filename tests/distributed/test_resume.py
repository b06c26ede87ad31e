"""k steps, save, stop, resume: the same run as without the stop."""

import shutil
from pathlib import Path
from typing import Any

import pytest

UNEVEN = "objectives.fairness.temperature=0.1"  # as in test_engines_agree.py

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


def _compare(whole: Any, resumed: Any, first_step: int) -> None:
    for name, tensor in whole.adapters().items():
        assert (tensor - resumed.adapters()[name]).abs().max() == 0, name
    pairs = list(zip(whole.metrics(), resumed.metrics(), strict=True))
    assert [one["step"] for one, _ in pairs] == list(range(1, len(pairs) + 1))
    for one, two in pairs[first_step:]:
        assert {k: v for k, v in one.items() if k.startswith(("train/", "balance/"))} == {
            k: v for k, v in two.items() if k.startswith(("train/", "balance/"))
        }


STATEFUL = ("balancing.gram_ema=0.8", "balancing.balance_every=3", "balancing.normalize=l2")


@pytest.mark.parametrize(
    ("engine", "balancing"),
    [
        (None, ("balancing.method=famo",)),
        (None, ("balancing.method=gradnorm",)),
        (None, ("balancing.method=dwa", "balancing.options={window: 2}")),
        (None, ("balancing.method=pcd", *STATEFUL)),
        ("cpu_ddp2", ("balancing.method=gradvac", *STATEFUL)),
        ("cpu_zero2", ("balancing.method=torchjd:GradVac", "balancing.options={beta: 0.1}", *STATEFUL)),
        ("cpu_zero3", ("balancing.method=famo",)),
        ("cpu_fsdp2", ("balancing.method=mgda", "balancing.level=parameters")),
        ("cpu_ddp2", ("balancing.method=pcgrad", "train.batch_size=null", "train.max_tokens=160")),
    ],
)
def test_resumed_run_is_the_same_run(
    engine: str | None, balancing: tuple[str, ...], launch: Any, tmp_path: Path
) -> None:
    settings = ("train.save_every=2", "train.batch_size=2", "lora.dropout=0.1", "train.keep_checkpoints=3", *balancing)
    whole = launch(engine, tmp_path / "whole", *settings)
    assert whole.code == 0, whole.printed
    # What a kill after step 4 leaves: the folder as it is, without what came later.
    killed = tmp_path / "killed"
    shutil.copytree(whole.folder, killed)
    shutil.rmtree(killed / "checkpoints" / "step-000006")
    shutil.rmtree(killed / "adapters")
    (killed / "checkpoints" / "step-000006.tmp").mkdir()
    resumed = launch(engine, killed, *settings, "--resume")
    assert resumed.code == 0, resumed.printed
    assert "resumed from" in resumed.printed and "step-000004" in resumed.printed
    _compare(whole, resumed, first_step=4)


def test_checkpoint_holds_no_frozen_weight(launch: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    job = launch(None, tmp_path / "run", "train.save_every=6", "train.batch_size=2")
    assert job.code == 0, job.printed
    tensors = load_file(job.folder / "checkpoints" / "step-000006" / "trainable.safetensors")
    assert set(tensors) == set(job.adapters())
    assert all(".lora_" in name or name.startswith("heads.") for name in tensors)


@pytest.mark.parametrize("engine", [None, "cpu_zero2"])
def test_a_damaged_checkpoint_is_passed_over(engine: str | None, launch: Any, tmp_path: Path) -> None:
    settings = ("train.save_every=2", "train.batch_size=2")
    job = launch(engine, tmp_path / "run", *settings)
    assert job.code == 0, job.printed
    pattern = "engine/*optim_states.pt" if engine else "optimizer.pt"
    broken = next((job.folder / "checkpoints" / "step-000006").glob(pattern))
    content = bytearray(broken.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    broken.write_bytes(content)
    again = launch(engine, job.folder, *settings, "--resume")
    assert again.code == 0, again.printed
    printed = " ".join(again.printed.split())
    assert "passed over: " in printed and f"{broken.name} is not as it was written" in printed
    assert "step-000004 (step 4)" in printed
    assert [record["step"] for record in again.metrics()] == [1, 2, 3, 4, 5, 6]


@pytest.fixture(scope="module")
def two_processes(launch: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of two processes under DDP, whole."""
    job = launch("cpu_ddp2", tmp_path_factory.mktemp("two") / "run", *OF_TWO)
    assert job.code == 0, job.printed
    return job


OF_TWO = ("train.save_every=2", "train.batch_size=2", "train.keep_checkpoints=3", "balancing.method=pcgrad", UNEVEN)


def _killed_after_four(job: Any, folder: Path) -> Path:
    shutil.copytree(job.folder, folder)
    shutil.rmtree(folder / "checkpoints" / "step-000006")
    shutil.rmtree(folder / "adapters")
    return folder


@pytest.mark.parametrize(("engine", "processes"), [("cpu_fsdp2", 2), ("cpu_fsdp2", 3)])
def test_another_number_of_processes_goes_on_with_the_same_batches(
    engine: str, processes: int, launch: Any, two_processes: Any, tmp_path: Path
) -> None:
    killed = _killed_after_four(two_processes, tmp_path / "killed")
    job = launch(engine, killed, *OF_TWO, "--resume", processes=processes)
    assert job.code == 0, job.printed
    printed = " ".join(job.printed.split())
    assert f"{processes} processes on cpu" in printed
    assert (f"began with 2 process(es) and goes on with {processes}" in printed) == (processes != 2)
    for name, tensor in two_processes.adapters().items():
        assert (tensor - job.adapters()[name]).abs().max() <= 1e-5, name
    for one, two in zip(two_processes.metrics(), job.metrics(), strict=True):
        keys = [key for key in one if key.startswith(("train/loss", "balance/weight"))]
        assert [two[key] for key in keys] == pytest.approx([one[key] for key in keys], rel=2e-5, abs=1e-7)


def test_a_run_goes_back_to_its_processes(launch: Any, two_processes: Any, tmp_path: Path) -> None:
    """From two processes to one and back to two: the batches are those of two all the way."""
    folder = _killed_after_four(two_processes, tmp_path / "killed")
    shutil.rmtree(folder / "checkpoints" / "step-000004")
    alone = launch(None, folder, *OF_TWO, "--resume")
    assert alone.code == 0, alone.printed
    shutil.rmtree(folder / "checkpoints" / "step-000006")
    again = launch("cpu_fsdp2", folder, *OF_TWO, "--resume")
    assert again.code == 0 and "step-000004" in again.printed, again.printed
    for name, tensor in two_processes.adapters().items():
        assert (tensor - again.adapters()[name]).abs().max() <= 1e-5, name


def test_what_cannot_go_on_with_other_processes_is_refused(launch: Any, two_processes: Any, tmp_path: Path) -> None:
    deepspeed = launch("cpu_zero2", two_processes.folder, *OF_TWO, "--resume")
    assert deepspeed.code != 0 and "deepspeed = False, this job has True" in " ".join(deepspeed.printed.split())
    zero = launch("cpu_zero2", tmp_path / "zero", *OF_TWO)
    assert zero.code == 0, zero.printed
    fewer = launch("cpu_zero2", zero.folder, *OF_TWO, "--resume", processes=1)
    assert fewer.code != 0
    assert "one piece per process" in " ".join(fewer.printed.split())

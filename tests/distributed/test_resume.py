"""k steps, save, stop, resume: the same run as without the stop."""

import shutil
from pathlib import Path
from typing import Any

import pytest

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


def test_other_engine_is_refused(launch: Any, tmp_path: Path) -> None:
    job = launch("cpu_ddp2", tmp_path / "run", "train.save_every=3", "train.batch_size=2")
    assert job.code == 0, job.printed
    again = launch(None, job.folder, "train.save_every=3", "train.batch_size=2", "--resume")
    assert again.code == 2
    assert "processes = 2" in again.printed

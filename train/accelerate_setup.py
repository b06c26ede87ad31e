"""Accelerate and DeepSpeed set up the same way for every command."""

import importlib.util
import os
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import DistributedType

from equipoise.common.errors import UserError
from equipoise.configs.schema import RunConfig
from equipoise.train.build_locks import build_root, release_stale_build_locks


def make_accelerator(config: RunConfig, run: Path | None = None) -> Accelerator:
    """The accelerator of this job, on GPU or CPU, one process or many, DDP or DeepSpeed.

    Without a GPU the processes speak gloo; Accelerate would otherwise believe, silently, that each is alone.
    """
    handlers: list = [DistributedDataParallelKwargs(broadcast_buffers=False)]
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
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
    accelerator = Accelerator(
        mixed_precision="bf16" if config.train.precision == "bf16" else "no",
        gradient_accumulation_steps=config.train.accumulate,
        kwargs_handlers=handlers,
        log_with=trackers if trackers and run is not None else None,
        project_dir=str(run) if run is not None else None,
    )
    if config.backbone.quantize and zero_stage(accelerator) == 3:
        raise UserError(
            "ZeRO-3 cannot shard a quantized base: set backbone.quantize=null, or launch with DDP or ZeRO-2"
        )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        settings = accelerator.state.deepspeed_plugin.deepspeed_config
        # DeepSpeed asks for a number and reads nothing from it here; with a budget of tokens there is none.
        settings["train_micro_batch_size_per_gpu"] = config.train.batch_size or 1
        settings["gradient_accumulation_steps"] = config.train.accumulate
        settings["gradient_clipping"] = config.train.max_grad_norm
        settings["zero_optimization"]["overlap_comm"] = False
        settings["steps_per_print"] = 10**9
    return accelerator


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


def zero_stage(accelerator: Accelerator) -> int:
    """The ZeRO stage, 0 without DeepSpeed."""
    return int(accelerator.state.deepspeed_plugin.zero_stage) if is_deepspeed(accelerator) else 0

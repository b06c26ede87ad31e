"""Checkpoints: adapters, heads, optimizer, random states and the place in the data, without the frozen base.

A checkpoint is written to a temporary folder that is renamed when all processes are done, so a folder named
`step-000120` is complete; `state.json` lists its files with their hashes (`equipoise.train.checkpoint_files`).
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn

from equipoise.common.atomic import replace_dir
from equipoise.common.errors import UserError
from equipoise.data.sampling import sample_keys
from equipoise.modeling.adapter_store import copy_into
from equipoise.modeling.heads import as_named_now
from equipoise.train.accelerate_setup import is_deepspeed, zero_stage
from equipoise.train.checkpoint_files import checkpoint_folder, read_state, seal, superfluous
from equipoise.train.parameters import trainable
from equipoise.train.rescue import said_if_not_written
from equipoise.train.world import World


@dataclass
class TrainingState:
    """Where a run stands.

    Attributes:
        step, micro: optimizer steps and micro-batches done.
        extra: what objectives and loop remember.
        good: whether everything was finite since the checkpoint before.
        parts: the processes that the run began with, which settle its batches; 0: those of the job.
    """

    step: int = 0
    micro: int = 0
    extra: dict[str, Any] | None = None
    good: bool = True
    parts: int = 0


def _random_states() -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def save_checkpoint(
    run: Path,
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: Any,
    progress: TrainingState,
    world: World,
    keep: int,
) -> Path:
    """Write one checkpoint and drop all but the latest `keep` and the last good one; every process must call this.

    Raises:
        UserError: it cannot be written; those before it stay.
    """
    final = checkpoint_folder(run, progress.step)
    temporary = final.with_suffix(".tmp")
    way_out = f"the checkpoints before it are whole: free space, then go on from them with --resume ({run})"
    try:
        with said_if_not_written(str(final), way_out):
            if accelerator.is_main_process:
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
            world.barrier()
            _write(temporary, accelerator, model, optimizer, world)
            world.barrier()
            if accelerator.is_main_process:
                seal(temporary, _state(progress, accelerator, optimizer, world))
                replace_dir(temporary, final)
    except UserError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if accelerator.is_main_process:
        for old in superfluous(run, progress.step, keep):
            shutil.rmtree(old)
    world.barrier()
    return final


def _write(temporary: Path, accelerator: Accelerator, model: nn.Module, optimizer: Any, world: World) -> None:
    """This process's files of a checkpoint."""
    if is_deepspeed(accelerator):
        model.save_checkpoint(str(temporary), tag="engine", exclude_frozen_parameters=True)  # type: ignore[operator]
    elif accelerator.is_main_process:
        tensors = {n: p.detach().cpu().contiguous() for n, p in trainable(accelerator.unwrap_model(model)).items()}
        save_file(tensors, temporary / "trainable.safetensors")
        torch.save(optimizer.state_dict(), temporary / "optimizer.pt")
    torch.save(_random_states(), temporary / f"random-{world.rank}.pt")


def _state(progress: TrainingState, accelerator: Accelerator, optimizer: Any, world: World) -> dict[str, Any]:
    return {
        "step": progress.step,
        "micro": progress.micro,
        "extra": progress.extra,
        "good": progress.good,
        "processes": world.size,
        "parts": progress.parts or world.size,
        "zero_stage": zero_stage(accelerator),
        "deepspeed": is_deepspeed(accelerator),
        "groups": len(optimizer.param_groups),
    }


def refuse_other_engine(folder: Path, state: Mapping[str, Any], accelerator: Accelerator, world: World) -> None:
    """Refuse a checkpoint that the engine of this job cannot go on from.

    Raises:
        UserError: it was written by another engine or, under DeepSpeed, by another number of processes.
    """
    current = {"deepspeed": is_deepspeed(accelerator), "zero_stage": zero_stage(accelerator)}
    for key, value in current.items():
        if state[key] != value:
            raise UserError(
                f"{folder} was written with {key} = {state[key]}, this job has {value}: "
                "launch with the same accelerate config, or start anew with --overwrite"
            )
    if is_deepspeed(accelerator) and state["processes"] != world.size:
        raise UserError(
            f"{folder} was written with processes = {state['processes']}, this job has {world.size}: DeepSpeed keeps "
            "the optimizer's state in one piece per process, so launch as many (DDP and FSDP 2 go on with other "
            "numbers), or start anew with --overwrite"
        )


def load_checkpoint(
    folder: Path, accelerator: Accelerator, model: nn.Module, optimizer: Any, world: World, seed: int = 0
) -> TrainingState:
    """Bring model, optimizer and random states to where `folder` left them; `seed` of the run.

    One process, DDP and FSDP 2 write the same files and go on from each other's.

    Raises:
        UserError: the checkpoint is damaged, or was written by another engine or, under DeepSpeed, by another number of
            processes.
    """
    state = read_state(folder)
    refuse_other_engine(folder, state, accelerator, world)
    groups = len(optimizer.param_groups)
    if state.get("groups", groups) != groups:
        raise UserError(
            f"{folder} was written with {state['groups']} learning rates, this job has {groups}: its priors or "
            "data.comparison have changed; start anew with --overwrite"
        )
    if is_deepspeed(accelerator):
        path, _ = model.load_checkpoint(str(folder), tag="engine", load_module_strict=False)  # type: ignore[operator]
        if path is None:
            raise UserError(f"{folder} holds no DeepSpeed state that can be loaded: remove it to resume from another")
    else:
        slate_model = accelerator.unwrap_model(model)
        retrieval = [
            name.removeprefix("heads.").removesuffix(".mix")
            for name, _ in slate_model.named_parameters()
            if name.endswith(".mix")
        ]
        tensors = as_named_now(load_file(folder / "trainable.safetensors"), retrieval)
        copy_into(slate_model, tensors, str(folder))
        try:
            kept = torch.load(folder / "optimizer.pt", weights_only=True)
            for group, own in zip(kept["param_groups"], optimizer.param_groups, strict=True):
                group["fused"] = own["fused"]  # how it steps is no state: earlier runs stepped tensor by tensor
            optimizer.load_state_dict(kept)
        except ValueError as error:  # written before "groups" was recorded
            raise UserError(
                f"{folder} holds the state of another optimizer ({error}): start anew with --overwrite"
            ) from error
    _restore_random_states(folder, state, seed, world)
    return TrainingState(state["step"], state["micro"], state["extra"], parts=parts_of(state))


def parts_of(state: Mapping[str, Any]) -> int:
    """The processes that a run began with, from the record of one of its checkpoints."""
    return int(state.get("parts", state["processes"]))


def _restore_random_states(folder: Path, state: Mapping[str, Any], seed: int, world: World) -> None:
    """Those that were kept, or with other processes fresh ones from seed, step and process; only lora.dropout draws."""
    if state["processes"] != world.size:
        torch.manual_seed(int(sample_keys(seed, state["step"], np.array(world.rank), np.array(0))) >> 1)
        return
    states = torch.load(folder / f"random-{world.rank}.pt", weights_only=True)
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])

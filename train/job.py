"""One training job from start to end: set up, train, check what moved, and leave a complete run folder."""

import shutil
import time
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table
from torch import nn

from configs.errors import UserError
from configs.load import save_config
from configs.schema import RunConfig
from modeling.adapter_store import AdapterInfo, save_adapters
from train.accelerate_setup import make_accelerator, zero_stage
from train.assemble import DataParts, assemble_model, check_lengths, objectives_of, open_data, train_batches
from train.checkpoint import Progress, checkpoints, load_checkpoint, save_checkpoint
from train.loop import Hooks, Loop
from train.parameters import MovementCheck, count_by_group, gather, optimizer_groups, trainable
from train.tracking import Tracking
from train.validation import validate
from train.world import World


def train(config: RunConfig, resume: bool = False, overwrite: bool = False) -> dict[str, Any] | None:
    """Train as configured and return the summary, or None where a signal stopped the run (it can be resumed).

    Raises:
        UserError: the config does not fit the data, the backbone or the run folder.
    """
    accelerator = make_accelerator(config, config.output)
    world = World()
    console = Console(quiet=not accelerator.is_main_process, highlight=False)
    _claim_folder(config, accelerator, world, resume, overwrite)
    set_seed(config.seed)
    check_lengths(config)
    objectives = objectives_of(config)
    with accelerator.main_process_first():  # the first process fills the dataset's cache
        data = open_data(config, "train", objectives)
        valid = open_data(config, "valid", objectives) if config.train.eval_every else None
    model, info = assemble_model(config, objectives, data.slates.manifest)
    optimizer = torch.optim.AdamW(optimizer_groups(model, config.train), weight_decay=config.train.weight_decay)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    movement = MovementCheck(accelerator.unwrap_model(wrapped), world)
    tracking = Tracking(accelerator, config, config.output, resumed=resume)
    batches = train_batches(config, data, world)
    _describe(console, config, accelerator, accelerator.unwrap_model(wrapped), data)

    bar = ProgressBar(
        TextColumn("[bold]train"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    )
    loop = Loop(
        config,
        accelerator,
        wrapped,
        optimizer,
        objectives,
        batches,
        world,
        Hooks(
            log=lambda step, values: (tracking.log(step, values), _line(console, loop.total, step, values)),  # type: ignore[arg-type, return-value]
            evaluate=lambda step: _evaluate(config, wrapped, valid, accelerator, world, tracking, console, step),
            save=lambda progress: _save(config, accelerator, wrapped, optimizer, progress, world, console),
            advance=lambda step: bar.update(task, completed=step),
        ),
    )
    task = bar.add_task("train", total=loop.total)
    progress = _start(config, accelerator, wrapped, optimizer, world, tracking, console, resume)
    started = time.perf_counter()
    with bar:
        progress = loop.run(progress)
    seconds = time.perf_counter() - started
    if loop.stopped:
        console.print(f"stopped after step {progress.step}; go on with --resume")
        tracking.finish({"finished": False, "steps": progress.step}, config.output)
        return None
    return _finish(config, accelerator, wrapped, info, movement, tracking, console, progress, seconds, world)


def _claim_folder(config: RunConfig, accelerator: Accelerator, world: World, resume: bool, overwrite: bool) -> None:
    """Make the run folder the main process's, refusing to mix two runs; all processes learn of a refusal."""
    run, refusal = config.output, None
    if accelerator.is_main_process:
        held = (run / "config.yaml").exists()
        if overwrite and held:
            shutil.rmtree(run)
        elif held and not resume:
            refusal = f"{run} already holds a run: add --resume or --overwrite, or set another output"
        elif resume and not held:
            refusal = f"{run} holds no run to resume: drop --resume or correct output"
        if refusal is None:
            run.mkdir(parents=True, exist_ok=True)
            save_config(config, run / "config.yaml")
    refusal = world.gather(refusal)[0]
    if refusal:
        raise UserError(refusal)


def _start(
    config: RunConfig,
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: Any,
    world: World,
    tracking: Tracking,
    console: Console,
    resume: bool,
) -> Progress:
    saved = checkpoints(config.output) if resume else []
    if resume and not saved:
        console.print("no checkpoint yet: starting from the beginning")
    if not saved:
        return Progress()
    progress = load_checkpoint(saved[-1], accelerator, model, optimizer, world)
    tracking.forget_after(progress.step)
    console.print(f"resumed from {saved[-1]} (step {progress.step})")
    return progress


def _save(
    config: RunConfig,
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: Any,
    progress: Progress,
    world: World,
    console: Console,
) -> None:
    folder = save_checkpoint(
        config.output, accelerator, model, optimizer, progress, world, config.train.keep_checkpoints
    )
    console.print(f"saved {folder}")


def _evaluate(
    config: RunConfig,
    model: nn.Module,
    valid: DataParts | None,
    accelerator: Accelerator,
    world: World,
    tracking: Tracking,
    console: Console,
    step: int,
) -> None:
    assert valid is not None, "evaluation needs the valid split"
    values = validate(config, model, valid, accelerator.device, world)
    tracking.log(step, values)
    shown = {key: values[key] for key in ("valid/ctr/auc", "valid/ctr/gauc", "valid/ctcvr/auc") if key in values}
    console.print("  ".join(f"{key} {value:.4f}" for key, value in shown.items()))


def _describe(console: Console, config: RunConfig, accelerator: Accelerator, model: nn.Module, data: DataParts) -> None:
    """The start-up table: what trains, on what, how."""
    table = Table(title=f"{config.name}: trainable parameters")
    table.add_column("part")
    table.add_column("parameters", justify="right")
    named = trainable(model)
    for group, count in count_by_group(named.items()).items():
        table.add_row(group, f"{count:,}")
    frozen = [p for p in model.parameters() if not p.requires_grad]
    total = sum(int(getattr(p, "ds_numel", p.numel())) for p in frozen)
    table.add_row("frozen base", f"{total:,}")
    console.print(table)
    stage = f", ZeRO-{zero_stage(accelerator)}" if zero_stage(accelerator) else ""
    console.print(
        f"{len(data.slates):,} train slates; {accelerator.num_processes} process(es) on {accelerator.device.type}"
        f" ({accelerator.distributed_type.value}{stage}), {config.train.batch_size} slates each ×"
        f" {config.train.accumulate}; method {config.balancing.method}, normalize {config.balancing.normalize}"
    )
    rows = np.linspace(0, len(data.slates) - 1, num=min(100, len(data.slates)), dtype=int)
    for row in rows:
        data.slates.slate(int(row), data.tokenizer)
    for name, limit in (("prefix", "max_prefix"), ("candidate", "max_candidate")):
        share = data.tokenizer.cut[name] / max(data.tokenizer.seen[name], 1)
        if share:
            console.print(f"{share:.1%} of {name} texts (of {len(rows)} slates looked at) are cut at tokens.{limit}")


def _line(console: Console, total: int, step: int, values: dict[str, float]) -> None:
    losses = "  ".join(f"{key.rsplit('/', 1)[1]} {v:.4f}" for key, v in values.items() if key.startswith("train/loss/"))
    weights = " ".join(f"{v:.2f}" for key, v in values.items() if key.startswith("balance/weight/"))
    console.print(
        f"step {step}/{total}  loss {losses}  α {weights}  conflicts {values.get('balance/conflict_rate', 0):.0%}"
        f"  lr {values['train/lr']:.1e}  {values['perf/impressions_per_second']:.0f} impressions/s"
    )


def _finish(
    config: RunConfig,
    accelerator: Accelerator,
    model: nn.Module,
    info: AdapterInfo,
    movement: MovementCheck,
    tracking: Tracking,
    console: Console,
    progress: Progress,
    seconds: float,
    world: World,
) -> dict[str, Any]:
    slate_model = accelerator.unwrap_model(model)
    moved = movement.moved()
    frozen = [name for names in world.gather(movement.changed_frozen()) for name in names]
    tensors = gather(trainable(slate_model))
    if accelerator.is_main_process:
        save_adapters(config.output / "adapters", tensors, info)
    still = [name for name, change in moved.items() if change == 0.0]
    if still or frozen:
        raise RuntimeError(f"after training, unmoved: {still}; frozen weights that moved: {frozen[:3]}")
    summary = {
        "finished": True,
        "name": config.name,
        "steps": progress.step,
        "seconds": round(seconds, 1),
        "processes": world.size,
        "largest_change": moved,
    }
    tracking.finish(summary, config.output)
    console.print(f"{progress.step} steps in {seconds:.0f} s; every adapter moved, no frozen weight did")
    console.print(f"adapters: {config.output / 'adapters'}")
    world.barrier()
    return summary

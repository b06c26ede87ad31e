"""One training job from start to end: set up, train, check what moved, and leave a complete run folder."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from accelerate.utils import set_seed

from equipoise.common.console import new_console
from equipoise.common.errors import DivergedError, UserError
from equipoise.common.logs import rendered
from equipoise.common.progress import ProgressBar
from equipoise.configs.load import read_run_config, save_config
from equipoise.configs.schema import RunConfig
from equipoise.data.manifest import Manifest
from equipoise.data.remote_copy import bring
from equipoise.data.token_cache import TokenCache
from equipoise.modeling.adapter_store import copy_into
from equipoise.modeling.base_identity import Identity
from equipoise.modeling.model import SlateModel
from equipoise.modeling.precision import settle_precision
from equipoise.modeling.principal import start_principal
from equipoise.train.accelerate_setup import (
    is_deepspeed,
    is_fsdp,
    make_accelerator,
    shards_base,
    zero_stage,
)
from equipoise.train.assemble import (
    assemble_model,
    open_data,
    open_split,
    told_as_prepared,
    train_batches,
)
from equipoise.train.batch_default import settle_batch
from equipoise.train.best_adapters import BestAdapters, Selection
from equipoise.train.checkpoint import TrainingState, load_checkpoint, parts_of, refuse_other_engine, save_checkpoint
from equipoise.train.checkpoint_files import checkpoints, last_whole, read_state
from equipoise.train.data_record import refuse_other_data, write_data_record
from equipoise.train.describe import describe, heads_line, step_line
from equipoise.train.environment import peak_memory_bytes
from equipoise.train.fit_on_valid import ValidFits
from equipoise.train.flat_adamw import FlatAdamW
from equipoise.train.head_phase import learned_parts, start_heads
from equipoise.train.list_fit import check_lists, in_begun_form, list_rule
from equipoise.train.loop import Hooks, Loop
from equipoise.train.objectives.registry import build_objectives
from equipoise.train.out_of_memory import memory_advice
from equipoise.train.parameters import MovementCheck, gather, optimizer_groups, trainable
from equipoise.train.recall_sources import as_begun
from equipoise.train.rescue import said_if_full, save_or_rescue
from equipoise.train.resume import begun_processes, refuse_changed_base, refuse_changed_settings, write_inputs
from equipoise.train.run_folder import RunFolder, has_begun, refuse_places
from equipoise.train.sharding import prepare_sharded
from equipoise.train.start_from import EarlierRun
from equipoise.train.start_record import StartRecord
from equipoise.train.token_caches import check_lengths, find_tokens
from equipoise.train.trackers.tracking import Tracking
from equipoise.train.validation import Validation, validate
from equipoise.train.weight_average import WeightAverage
from equipoise.train.world import World

log = logging.getLogger(__name__)


def train(config: RunConfig, resume: bool = False, overwrite: bool = False) -> dict[str, Any] | None:
    """Train as configured and return the summary, or None where a signal stopped the run (it can be resumed).

    Raises:
        UserError: the config does not fit the data, the backbone or the run folder.
    """
    goes_on = resume and not overwrite
    begun = read_run_config(config.output) if goes_on and has_begun(config.output) else None
    with said_if_full(config.output):
        config, tokens = settle(config, goes_on, begun)
        with memory_advice(config, "training"):
            return Job(config, resume, overwrite, tokens).run()


def settle(config: RunConfig, goes_on: bool, begun: RunConfig | None) -> tuple[RunConfig, TokenCache]:
    """A configuration without anything that is `auto`, as the prepared data and a run that goes on have it; its tokens.

    Args:
        config: of the run.
        goes_on: whether a run in its folder is to go on.
        begun: what that run began with; None where there is none.

    Raises:
        UserError: the config does not fit the data, the backbone or its folder.
    """
    config = settle_precision(config, begun)
    refuse_places(config)
    bring(config.data)
    config = told_as_prepared(config)
    if goes_on:
        config = in_begun_form(as_begun(config))
    check_lengths(config)
    tokens = find_tokens(config)  # made here if need be, while no process waits for another
    return settle_batch(config, tokens, begun), tokens


class Job:
    """The parts of a running job and what the loop calls between its steps."""

    def __init__(self, config: RunConfig, resume: bool, overwrite: bool, tokens: TokenCache) -> None:
        self.config, self.resume = config, resume
        self.accelerator = make_accelerator(config, config.output)
        self.world = World()
        # Trackers may keep a folder of the project's name in the run folder.
        self.folder = RunFolder(config.output, self.world, [config.wandb.project])
        self.folder.check(resume, overwrite)
        self.goes_on = bool(resume and checkpoints(config.output))
        identity = Identity.of(config)
        self.earlier = EarlierRun.of(config)
        if self.goes_on:
            self._refuse_changed(identity)
        set_seed(config.seed)
        objectives = build_objectives(config.objectives)
        self.data = open_data(config, "train", objectives, tokens)
        objectives = self.data.objectives
        check_lists(objectives, self.data.slates)
        if self.goes_on:
            self.data.beside.refuse_changed(config.output)
        needs_valid = config.train.eval_every or config.train.calibration != "none"
        # Lists are fitted on valid, where there is such a split.
        fits_lists = list_rule(config) is not None and "valid" in self.data.slates.manifest.splits
        self.valid = open_split(self.data, "valid") if needs_valid or fits_lists else None
        whole = not shards_base(self.accelerator)
        kept = self.earlier.info.offsets if self.earlier else None
        model, self.info = assemble_model(config, self.data, partial_last_layer=whole, kept_offsets=kept)
        if self.earlier is None:
            if config.lora.init == "principal" and not self.goes_on:
                start_principal(model)
            self._start_heads(model)
        else:
            self.earlier.begin(model, self.info)
        groups = optimizer_groups(model, config.train, learned_parts(model, config.objectives.specs()))
        sharded = is_fsdp(self.accelerator) or is_deepspeed(self.accelerator)
        optimizer = (torch.optim.AdamW if sharded else FlatAdamW)(groups, weight_decay=config.train.weight_decay)
        prepare: Any = (
            partial(prepare_sharded, self.accelerator) if is_fsdp(self.accelerator) else self.accelerator.prepare
        )
        self.model, self.optimizer = prepare(model, optimizer)
        self.slate_model: SlateModel = self.accelerator.unwrap_model(self.model)
        self.movement = MovementCheck(self.slate_model, self.world)
        self._refuse_whole_weights()
        batches = train_batches(config, self.data, self.world, self._parts())
        hooks = Hooks(self._log, self._evaluate, self._save, self._advance)
        parts = (self.accelerator, self.model, self.optimizer, objectives, batches, self.world, hooks)
        self.loop = Loop(config, *parts, map_values=self.data.map_values)
        console = new_console(quiet=self.world.rank > 0)
        self.bar = ProgressBar("train", self.loop.total, "steps", console=console, transient=False)
        selection = Selection.of(config.train.select)
        begun = self._begin_optimizer()
        self.progress = self._load()
        self.folder.claim(overwrite, lambda: self._write_beginning(identity, begun))
        with self._given_back():
            self.tracking = Tracking(self.accelerator, config, config.output, resumed=resume)
            self.best = BestAdapters(config.output, self.world, selection, surely=self._begins_as_priors())
            self.average = WeightAverage(config.output, self.world, config.train.average)
            self._forget_later()

    def _begins_as_priors(self) -> bool:
        """Whether the start is good in all that adapters say, so that only what is surely better takes its place."""
        model, config = self.slate_model, self.config.train
        own = not model.retrieval and config.start_from is None
        return config.select_surely and own and set(model.pointwise) <= set(model.priors)

    def _refuse_changed(self, identity: Identity) -> None:
        """Refuse to go on with other settings, data or another base than the run began with."""
        config, run = self.config, self.config.output
        refuse_changed_settings(in_begun_form(as_begun(read_run_config(run))), config, run)
        refuse_other_data(run, Manifest.read(config.data.folder), config.data.folder, resumes=True)
        refuse_changed_base(identity, config, run)

    def _begin_optimizer(self) -> StartRecord | None:
        """Let the optimizer go on from the earlier run, where there is one; what is to be kept of it."""
        if self.earlier is None or self.goes_on:
            return None
        store, prior = self.data.beside.store, self.config.train.start_prior
        origin = store.origin if store is not None else None
        return self.earlier.go_on(self.optimizer, is_deepspeed(self.accelerator), prior, origin)

    def _write_beginning(self, identity: Identity, begun: StartRecord | None) -> None:
        """What is in the folder before the first step; by the first process alone."""
        config, run = self.config, self.config.output
        save_config(config, run / "config.yaml")
        write_data_record(self.data.slates.manifest, config.data.folder, run)
        if not self.goes_on:
            write_inputs(identity, run)
            self.data.beside.write(run)
            if begun is not None:
                begun.write(run)

    @contextmanager
    def _given_back(self) -> Iterator[None]:
        """Let go of the folder at the end; after a failure before the first step it is as it was before the job."""
        try:
            yield
        except BaseException:
            self.folder.give_back()
            self.folder.release()
            raise

    def run(self) -> dict[str, Any] | None:
        """Train from the beginning or the last checkpoint."""
        with self._given_back():
            try:
                summary = self._run()
            except DivergedError as error:
                self.tracking.alert("Training diverged", str(error))
                raise
        self.folder.release()
        return summary

    def _run(self) -> dict[str, Any] | None:
        for part in describe(self.config, self.accelerator, self.slate_model, self.loop.batches, self.loop.total):
            log.info(rendered(part))
        progress = self.progress
        started = time.perf_counter()
        with self.bar:
            if self.config.train.self_check and progress.step < self.loop.total:
                self.loop.self_check(progress)
            if self.config.train.eval_every and not progress.step:
                self._evaluate(0)  # what training starts from takes part in the choice
            if not self._out_of_patience(progress.step):
                progress = self.loop.run(progress)
        seconds = time.perf_counter() - started
        self.folder.begin()
        if self.data.map_values:
            self.loop.balancer.map.write(self.config.output)
        if self.loop.stopped:
            why = "the launcher has died" if self.loop.orphaned else "a signal asked for it"
            log.info(f"stopped after step {progress.step}, because {why}; go on with --resume")
            self.tracking.finish({"finished": False, "steps": progress.step}, self.config.output)
            return None
        return self._finish(progress, seconds)

    def _refuse_whole_weights(self) -> None:
        config = self.config.train
        if zero_stage(self.accelerator) == 3 and (config.average or config.calibration != "none"):
            raise UserError(
                "under ZeRO-3 no process holds whole weights to average or to calibrate: set train.average=0 and "
                "train.calibration=none, or launch with ZeRO-2"
            )

    def _out_of_patience(self, step: int) -> bool:
        """Whether training ends because no validation has been better for long enough."""
        config = self.config.train
        if config.patience is None or config.eval_every is None:
            return False
        return self.best.waited(step, config.eval_every) >= config.patience

    def _start_heads(self, model: SlateModel) -> None:
        """Let heads with a prior or a comparison learn alone, on frozen vectors; every process does the same."""
        epochs = self.config.train.head_epochs
        # A checkpoint holds what they learned.
        if self.goes_on or not epochs or not (model.priors or model.compares):
            return
        with ProgressBar("heads", 100, "%", console=new_console(quiet=self.world.rank > 0)) as bar:
            losses = start_heads(
                model,
                self.config,
                self.data,
                lambda fraction: bar.update(int(100 * fraction)),
                lambda epoch, losses: log.info(heads_line(epoch, epochs, losses)),
            )
        for name, passes in losses.items():
            log.info(f"{name}: {passes.told()}")

    def _load(self) -> TrainingState:
        """Bring the model to where the last checkpoint left it."""
        if not self.goes_on:
            if self.resume:
                log.info("no checkpoint yet: starting from the beginning")
            return TrainingState()
        progress = load_checkpoint(
            self.last, self.accelerator, self.model, self.optimizer, self.world, self.config.seed
        )
        log.info(f"resumed from {self.last} (step {progress.step})")
        return progress

    def _parts(self) -> int | None:
        """The processes that a resumed run began with, which settle its batches."""
        if not self.goes_on:
            return None
        self.last = self.world.from_first(lambda: last_whole(self.config.output))
        state = read_state(self.last)
        refuse_other_engine(self.last, state, self.accelerator, self.world)
        return begun_processes(parts_of(state), self.config, self.world)

    def _forget_later(self) -> None:
        """Drop what an earlier part of the run left behind its checkpoint."""
        if not self.goes_on:
            self.best.forget()
            self.average.forget_after(-1)
            return
        self.tracking.forget_after(self.progress.step)
        self.best.forget_after(self.progress.step)
        self.average.forget_after(self.progress.step)

    def _log(self, step: int, values: dict[str, float]) -> None:
        self.tracking.log(step, values)
        log.info(step_line(step, self.loop.total, values))

    def _advance(self, step: int) -> None:
        self.folder.begin()
        self.bar.update(step)

    def _save(self, progress: TrainingState) -> None:
        keep = self.config.train.keep_checkpoints
        folder = save_checkpoint(
            self.config.output, self.accelerator, self.model, self.optimizer, progress, self.world, keep
        )
        log.info(f"saved {folder}")

    def _validate(self) -> Validation:
        assert self.valid is not None, "train.eval_every is set, so the valid split is open"
        with memory_advice(self.config, "evaluation"):
            return validate(self.config, self.model, self.valid, self.accelerator.device, self.world)

    def _evaluate(self, step: int) -> bool:
        found = self._validate()
        values = found.metrics()
        self.tracking.log(step, values)
        self.best.offer(step, values, lambda: gather(trainable(self.slate_model)), self.info, found)
        if self.average.count:
            self.average.keep(step, gather(trainable(self.slate_model)))
        self._print_validation(values)
        return self._out_of_patience(step)

    def _print_validation(self, values: dict[str, float], title: str = "") -> None:
        usual = ("valid/ctr/auc", "valid/ctr/gauc", "valid/ctcvr/auc")
        shown = [key for key in dict.fromkeys((*usual, *self.best.selection.weights)) if key in values]
        log.info(title + "  ".join(f"{key} {values[key]:.4f}" for key in shown))

    def _offer_average(self, step: int) -> None:
        """Validate the mean of the last validations' weights, which is kept where it is the best, and drop it."""
        self.world.barrier()
        steps = self.average.steps()
        if self.average.count and len(steps) > 1:
            last, mean = gather(trainable(self.slate_model)), self.average.mean()
            copy_into(self.slate_model, mean, str(self.average.folder))
            found = self._validate()
            copy_into(self.slate_model, last, "the last weights")
            values = found.metrics()
            self._print_validation(values, f"mean of the weights at steps {', '.join(map(str, steps))}: ")
            self.best.offer(step, values, lambda: mean, self.info, found, average=steps)
        self.world.barrier()
        self.average.forget_after(-1)

    def _finish(self, progress: TrainingState, seconds: float) -> dict[str, Any]:
        tensors = gather(trainable(self.slate_model))
        run = self.config.output
        if self.accelerator.is_main_process:  # saved first and judged then: hours of training are in them
            save_or_rescue(run / "adapters", tensors, self.info)
        moved = self.movement.moved()
        frozen = [name for names in self.world.gather(self.movement.changed_frozen()) for name in names]
        # A head that begins as its prior reads its tower from the second step on: the first moves heads alone.
        waits = bool(self.slate_model.priors or self.slate_model.retrieval) and progress.step < 2
        still = [name for name, change in moved.items() if change == 0.0 and not (waits and name.startswith("adapter"))]
        if frozen:
            raise RuntimeError(f"frozen weights moved in training: {frozen[:3]}; {run / 'adapters'} belongs to others")
        if still:
            log.warning(
                f"unmoved after {progress.step} steps, so as it began: {', '.join(still)}; look at its loss in "
                f"{run / 'metrics.jsonl'}: nothing in these steps has taught it anything"
            )
        self._offer_average(progress.step)
        fits = ValidFits(self.config, self.model, self.slate_model, self.accelerator, self.world)
        if self.config.train.calibration != "none" or list_rule(self.config) is not None:
            fits.fit_scores(self.valid)
        if self.data.beside.sources is not None:
            fits.choose_vectors(self.data, self.data.beside.sources)
        summary = {
            "finished": True,
            "name": self.config.name,
            "steps": progress.step,
            "ended": self._why_ended(progress.step),
            "seconds": round(seconds, 1),
            "processes": self.world.size,
            "peak_memory_bytes": max(self.world.gather(peak_memory_bytes())),
            "largest_change": moved,
            "unmoved": still,
        }
        if self.best.known is not None:
            summary["best"] = {key: value for key, value in self.best.known.items() if key != "start"}
            log.info(self._which_is_best(self.best.known))
        hint = self.tracking.finish(summary, run)
        which = "all others" if still else "every adapter"
        log.info(f"{progress.step} steps in {seconds:.0f} s; {which} moved, no frozen weight did")
        log.info(f"adapters: {run / 'adapters'}")
        if hint:
            log.info(f"W&B was offline; send the run with: {hint}")
        self.world.barrier()
        return summary

    def _why_ended(self, step: int) -> str:
        if step < self.loop.total and self.best.known is not None:
            return (
                f"after step {step} of {self.loop.total}, because {self.config.train.patience} validations in a row "
                f"were not better than that of step {self.best.known['step']} (train.patience)"
            )
        return f"after all {step} steps"

    def _which_is_best(self, best: dict[str, Any]) -> str:
        what = f"step {best['step']}"
        if best["step"] == 0:
            what += ", the start: training has not surely improved on it"
        elif "average" in best:
            what = f"the mean of the weights at steps {', '.join(map(str, best['average']))}"
        return f"best validation: {what} ({best['measure']} {best['value']:.4f}), kept in {self.config.output / 'best'}"

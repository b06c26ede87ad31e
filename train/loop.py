"""The training loop: one forward and one backward per micro-batch, whatever the method and the engine.

All processes run the same code; what they must agree on (counts, losses, weights, stopping) is summed first.
"""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import CheckpointError
from torch.utils.data import DataLoader

from equipoise.common.errors import DivergedError, UserError
from equipoise.common.process import LAUNCHER
from equipoise.configs.schema import RunConfig
from equipoise.data.batches import SlateBatch
from equipoise.data.slate_set import TrainBatches
from equipoise.modeling.boundary import StepContext
from equipoise.modeling.model import ForwardRequest, SlateModel
from equipoise.train.accelerate_setup import engine_name, is_deepspeed, is_fsdp, zero_stage
from equipoise.train.averages import Averages
from equipoise.train.balancing.balancer import Balancer
from equipoise.train.checkpoint import TrainingState
from equipoise.train.checkpoint_files import checkpoints, last_good
from equipoise.train.flat_adamw import FlatAdamW
from equipoise.train.kernel_choice import settle_kernels
from equipoise.train.objectives.base import Objective, Step, Totals, local_totals
from equipoise.train.schedule import rate_factor
from equipoise.train.self_check import self_check
from equipoise.train.sharding import average_gradients
from equipoise.train.world import World


class StopSignal:
    """Turns SIGINT or SIGTERM into a request to stop after the step; one that comes ten seconds later stops at once.

    Launchers and schedulers signal a process group and then each worker, so a second signal often comes at once. The
    death of the launcher asks for the same, or its processes would train on unseen.
    """

    PATIENCE_SECONDS = 10.0

    def __init__(self) -> None:
        self._signalled = False
        self._parent = os.getppid() if _is_launched() else None
        self._when = math.inf
        self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}

    def _ask(self, number: int, frame: Any) -> None:
        if time.monotonic() - self._when > self.PATIENCE_SECONDS:
            raise KeyboardInterrupt
        self._when = min(self._when, time.monotonic())
        self._signalled = True

    @property
    def orphaned(self) -> bool:
        """Whether the launcher of this process has died."""
        return self._parent is not None and os.getppid() != self._parent

    @property
    def asked(self) -> bool:
        """Whether the training is to stop."""
        return self._signalled or self.orphaned

    def restore(self) -> None:
        """Put the former handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _is_launched() -> bool:
    """Whether the parent of this process is a launcher that waits for it."""
    return "TORCHELASTIC_RUN_ID" in os.environ or os.environ.get(LAUNCHER) == str(os.getppid())


@dataclass
class Hooks:
    """What the loop calls between steps: each gets the number of optimizer steps done."""

    log: Callable[[int, dict[str, float]], None]
    evaluate: Callable[[int], bool | None]  # true ends the training
    save: Callable[[TrainingState], None]
    advance: Callable[[int], None]


class Loop:
    """Trains the assembled model from `progress` to `total` optimizer steps.

    `map_values`: column → values by which conflicts are told apart.
    """

    def __init__(
        self,
        config: RunConfig,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Any,
        objectives: dict[str, Objective],
        batches: TrainBatches,
        world: World,
        hooks: Hooks,
        map_values: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.config, self.accelerator, self.model, self.optimizer = config, accelerator, model, optimizer
        self.objectives, self.batches, self.world, self.hooks = objectives, batches, world, hooks
        self.slate_model: SlateModel = accelerator.unwrap_model(model)
        self.pointwise = self.slate_model.pointwise
        self.self_normalize = config.data.weights is None or config.data.weights.self_normalize
        # ZeRO-3 gives the towers' weights back before the one backward hands their gradients on.
        self.one_by_one = zero_stage(accelerator) != 3
        self.total = config.train.max_steps or batches.order.steps(config.train.epochs, config.train.accumulate)
        self._refuse_level()
        self.balancer = Balancer(
            list(objectives),
            [objective.options.weight for objective in objectives.values()],
            config.balancing,
            world,
            scale=world.size / config.train.accumulate,
            trunk=self.slate_model.trunk_parameters(),
            lower_bounds=[objective.lower_bound for objective in objectives.values()],
            max_nonfinite=config.train.max_nonfinite,
            groups=map_values,
        )
        self.base_rates = [group["lr"] for group in optimizer.param_groups]
        self.averages = Averages()
        self._seen = torch.zeros(3, dtype=torch.float64)  # slates, impressions and tokens since the last log line
        self.bad_in_a_row = dict.fromkeys(objectives, 0)
        self.skipped_in_a_row = 0
        self._nonfinite: set[str] = set()
        self._finite = True  # since the last checkpoint
        self._norm: tuple[int, torch.Tensor] | None = None  # of the last step's gradients, not read yet
        self.stopped = self.orphaned = False
        self._clock = time.perf_counter()

    def _refuse_level(self) -> None:
        balancing = self.config.balancing
        if zero_stage(self.accelerator) == 3 and (balancing.level != "boundary" or balancing.probe_every):
            raise UserError(
                "under ZeRO-3 each process holds pieces of the trunk, whose gradients cannot be compared: set "
                "balancing.level=boundary and balancing.probe_every=null, or launch with ZeRO-2"
            )

    def run(self, progress: TrainingState) -> TrainingState:
        """Train; returns where it ended. `stopped` tells whether a signal ended it early (a checkpoint is written)."""
        self._restore(progress)
        config = self.config.train
        numbers = range(progress.micro, self.total * config.accumulate)
        # A generator of its own: a loader that draws from the global one would make a resumed run another run.
        own = torch.Generator()
        loader = DataLoader(self.batches, batch_size=None, sampler=numbers, num_workers=config.workers, generator=own)
        stop = StopSignal()
        self.model.train()
        try:
            for number, batch in enumerate(loader):
                batch = batch.to(self.accelerator.device)
                if number == 0:
                    wanted = self.config.backbone.kernels
                    settle_kernels(self.slate_model, batch, self.world, config.precision, wanted)
                asked = self._micro_step(batch, progress, stop.asked)
                progress.micro += 1
                if progress.micro % config.accumulate:
                    continue
                progress.step += 1
                if self._after_step(progress):
                    break
                if asked and progress.step < self.total:
                    self.stopped, self.orphaned = True, stop.orphaned
                    self._save(progress)
                    break
        finally:
            stop.restore()
        return progress

    def self_check(self, progress: TrainingState) -> None:
        """Compare packed slates with the stock class on the batch to come.

        Raises:
            UserError: they differ, or the backbone cannot be run on packed slates.
        """
        batch = self.batches[progress.micro].to(self.accelerator.device)
        difference = self_check(self.model, self.slate_model, batch, self.world, self.config.train.precision)
        self.averages.add("perf/packed_difference", difference)

    def _after_step(self, progress: TrainingState) -> bool:
        """Log, validate and save as configured; whether the validation ended the training."""
        config, step, last = self.config.train, progress.step, progress.step == self.total
        ended = False
        self.hooks.advance(step)
        if step % config.log_every == 0 or last or step == 1:  # the first one shows at once that it learns something
            self._log(step)
        if config.eval_every and (step % config.eval_every == 0 or last):
            self._settle()
            ended = bool(self.hooks.evaluate(step)) and not last
            self._clock = time.perf_counter()
        if config.save_every and (step % config.save_every == 0 or last or ended):
            self._save(progress)
        return ended

    def _save(self, progress: TrainingState) -> None:
        self._settle()
        progress.extra = {
            "objectives": {n: {k: v.tolist() for k, v in o.state.items()} for n, o in self.objectives.items()},
            "bad_in_a_row": self.bad_in_a_row,
            "skipped_in_a_row": self.skipped_in_a_row,
            "balancer": self.balancer.state(),
        }
        progress.good, self._finite = self._finite, True
        self.hooks.save(progress)

    def _restore(self, progress: TrainingState) -> None:
        if progress.extra:
            kept = progress.extra["objectives"].items()
            self._remember({name: {key: torch.tensor(value) for key, value in s.items()} for name, s in kept})
            self.bad_in_a_row = dict(progress.extra["bad_in_a_row"])
            self.skipped_in_a_row = progress.extra.get("skipped_in_a_row", 0)
            self.balancer.restore(progress.extra["balancer"])

    def _totals(self, batch: SlateBatch, asked: bool) -> tuple[Totals, torch.Tensor]:
        """What losses are divided by, and how many processes are asked to stop, (1,); both on the device."""
        counted = [asked, batch.slate_candidates.shape[0], batch.click.numel(), batch.tokens]
        divisors = local_totals(batch, self.self_normalize)
        known = torch.tensor(counted, dtype=torch.float64)
        counts = self.world.sum(torch.cat([divisors, known.to(divisors.device, non_blocking=True)]))
        self._seen = self._seen.to(counts.device) + counts[4:]
        return Totals(*counts[:3].float().unbind()), counts[3:4]

    def _micro_step(self, batch: SlateBatch, progress: TrainingState, asked: bool) -> bool:
        self._set_rates(progress.step)
        if progress.micro % self.config.train.accumulate == 0:
            self._nonfinite.clear()
        totals, asking = self._totals(batch, asked)
        with self._recomputed(), self.accelerator.accumulate(self.model):
            memory = self._memory()
            context = StepContext(self.balancer.compute_weights, progress.step, self._groups(batch))
            local_losses, global_losses = self._losses(batch, totals, context)
            pending = [] if self._norm is None else [self._norm[1].double().view(1)]
            *each, stops = torch.cat([*pending, global_losses, asking]).tolist()  # one wait for the device
            if pending:
                self._note_norm(each.pop(0))
            losses = np.array(each)
            self._count_nonfinite(context.report_losses(tuple(self.objectives), losses), progress.step)
            finite = torch.isfinite(torch.as_tensor(losses, device=local_losses.device))
            self.accelerator.backward(torch.where(finite, local_losses, 0.0).sum())
            self._nonfinite |= context.nonfinite
            self._finite = self._finite and not context.nonfinite
            if self.accelerator.sync_gradients:
                self._apply(progress.step)
                if self.balancer.method.needs_losses_after:
                    self.balancer.after_step(losses, self._losses_again(batch, totals, memory))
        self._account(batch, losses)
        return stops > 0

    @contextmanager
    def _recomputed(self) -> Iterator[None]:
        """Say in a sentence that activations cannot be computed again: ZeRO-3 has taken some models' weights away."""
        try:
            yield
        except RuntimeError as error:
            sharded = zero_stage(self.accelerator) == 3 and not isinstance(error, torch.OutOfMemoryError)
            if not isinstance(error, CheckpointError) and not (sharded and self.config.backbone.checkpointing):
                raise
            name, reason = type(self.slate_model.backbone.trunk).__name__, next(iter(str(error).splitlines()), "")
            raise UserError(
                f"backbone.checkpointing: the activations of {name} cannot be computed again under "
                f"{engine_name(self.accelerator)} ({reason}): set backbone.checkpointing=false, or launch with ZeRO-2, "
                "DDP or FSDP 2"
            ) from error

    def _losses(self, batch: SlateBatch, totals: Totals, context: StepContext) -> tuple[torch.Tensor, torch.Tensor]:
        """This process's losses, with gradient, and the global ones, float64; both (K,)."""

        formula, priors = self.slate_model.relevance, tuple(self.slate_model.priors)
        step = Step(batch, {}, totals, self.world, self.pointwise, formula, self.self_normalize, priors)

        def criterion(name: str, outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
            return self.objectives[name].loss(step.reading(outputs))

        if self.one_by_one:
            request = ForwardRequest(batch.model_inputs(), criterion, context)
            local_losses = self.model(request=request)["losses"]
        else:
            outputs = self.model(request=ForwardRequest(batch.model_inputs(), step=context))
            local_losses = torch.stack([criterion(name, outputs) for name in self.objectives])
        return local_losses, (self.world.sum(local_losses) / self.world.size).double()

    def _groups(self, batch: SlateBatch) -> dict[str, torch.Tensor]:
        """Per column of the map of conflicts the group of each candidate, int64 (N,)."""
        return {
            name: batch.user_groups[name][batch.slate] if name in batch.user_groups else batch.attributes[name]
            for name in self.balancer.map.values
        }

    def _memory(self) -> dict[str, dict[str, torch.Tensor]]:
        """The moving averages of the objectives."""
        return {name: dict(objective.state) for name, objective in self.objectives.items()}

    def _remember(self, memory: dict[str, dict[str, torch.Tensor]]) -> None:
        for name, state in memory.items():
            self.objectives[name].state = state

    @torch.no_grad()
    def _losses_again(
        self, batch: SlateBatch, totals: Totals, memory: dict[str, dict[str, torch.Tensor]]
    ) -> np.ndarray:
        """The global losses of the batch that the step has just used, from the same averages as before the step.

        Neither those averages nor the random states notice it.
        """
        now = self._memory()
        self._remember(memory)
        device = self.accelerator.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            _, losses = self._losses(batch, totals, StepContext())
        self._remember(now)
        return losses.cpu().numpy()

    def _count_nonfinite(self, bad: set[str], step: int) -> None:
        """Note the objectives whose global loss is not finite; stop after too many such steps in a row."""
        self._finite = self._finite and not bad
        for name in self.objectives:
            self.bad_in_a_row[name] = self.bad_in_a_row[name] + 1 if name in bad else 0
            self.averages.add(f"train/nonfinite/{name}", float(name in bad))
            if self.bad_in_a_row[name] >= self.config.train.max_nonfinite:
                raise DivergedError(
                    f"the loss of objective '{name}' was not finite in {self.bad_in_a_row[name]} micro-batches in a "
                    f"row (step {step}): {self._way_back(step)}"
                )

    def _way_back(self, step: int) -> str:
        """What to do about numbers that are not finite; names the last checkpoint before them."""
        good = last_good(self.config.output, step)
        if good is None:
            return "lower train.lr or check the labels, then start anew with --overwrite"
        later = "" if good == checkpoints(self.config.output)[-1] else f", remove the checkpoints after {good.name}"
        return f"lower train.lr or check the labels{later}, then go on from {good} with --resume"

    def _count_skipped(self, finite: bool, step: int) -> None:
        """Note a step that was left out because its gradient norm is not finite; stop after too many in a row."""
        self.averages.add("train/skipped_step", float(not finite))
        self._finite = self._finite and finite
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        if self.skipped_in_a_row >= self.config.train.max_nonfinite:
            raise DivergedError(
                f"the gradient norm was not finite in {self.skipped_in_a_row} steps in a row, which were left out "
                f"(step {step}): {self._way_back(step)}"
            )

    def _apply(self, step: int) -> None:
        # One clip over trunk, towers and heads together, after combining; DeepSpeed has done it inside backward.
        if is_deepspeed(self.accelerator):
            norm = float(self.model.get_global_grad_norm() or 0.0)  # type: ignore[operator]
            if not math.isfinite(norm):
                # DeepSpeed has stepped already, so that no later step could mend it.
                raise DivergedError(
                    f"the gradient norm is not finite under DeepSpeed (step {step}): {self._way_back(step)}"
                )
        else:
            if is_fsdp(self.accelerator):
                average_gradients(self.model.parameters())
            self._drop_nonfinite_towers()
            most = self.config.train.max_grad_norm
            own = self.optimizer.optimizer  # as Accelerate has wrapped it
            if isinstance(own, FlatAdamW):
                found = own.clipped_step(most)
            else:
                norm = self.accelerator.clip_grad_norm_(self.model.parameters(), most)
                found = norm.full_tensor() if isinstance(norm, DTensor) else torch.as_tensor(norm)
                if math.isfinite(found):
                    self.optimizer.step()
            self.optimizer.zero_grad()
            self._norm = (step, found)
            return
        self.averages.add("train/grad_norm", norm)

    def _settle(self) -> None:
        """Read the norm of the last step's gradients, where nothing else has brought it along."""
        if self._norm is not None:
            self._note_norm(float(self._norm[1]))

    def _note_norm(self, norm: float) -> None:
        """Take note of the norm of the gradients of a step that has been taken, or left out."""
        assert self._norm is not None
        step, self._norm = self._norm[0], None
        self._count_skipped(math.isfinite(norm), step)
        self.averages.add("train/grad_norm", norm)

    def _drop_nonfinite_towers(self) -> None:
        """Zero the gradients of towers in which something was not finite: the others must not lose the step."""
        for name in self._nonfinite:
            for parameter in self.slate_model.own_parameters[name]:
                if parameter.grad is not None:
                    parameter.grad.zero_()

    def _set_rates(self, step: int) -> None:
        config = self.config.train
        factor = rate_factor(step, self.total, config.warmup, config.min_lr_ratio)
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor
        self._rate = self.base_rates[0] * factor

    def _account(self, batch: SlateBatch, losses: np.ndarray) -> None:
        for name, loss in zip(self.objectives, losses, strict=True):
            self.averages.add(f"train/loss/{name}", float(loss))
        computed = self.slate_model.computed_tokens
        self.averages.add("perf/padding", 1.0 - batch.tokens / computed)

    def _log(self, step: int) -> None:
        self._settle()
        now = time.perf_counter()
        values = self.averages.drain()
        for key, total in zip(("slates", "impressions", "tokens"), self._seen.tolist(), strict=True):
            values[f"perf/{key}_per_second"] = total / max(now - self._clock, 1e-9)
        self._seen = torch.zeros_like(self._seen)
        values["train/lr"] = self._rate
        values["train/epoch"] = self.batches.order.epoch_at(step * self.config.train.accumulate)
        values.update(self.balancer.drain())
        self._clock = now
        self.hooks.log(step, values)

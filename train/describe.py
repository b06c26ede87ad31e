"""What a training job tells a person: the start-up table and one tidy line per log interval."""

from collections.abc import Iterator, Mapping

from accelerate import Accelerator
from rich.table import Table

from equipoise.common.console import new_table
from equipoise.configs.schema import RunConfig
from equipoise.data.slate_set import TrainBatches
from equipoise.data.token_budget import BudgetOrder
from equipoise.data.token_cache import TextCounts
from equipoise.modeling.model import SlateModel
from equipoise.train.accelerate_setup import shards_base, zero_stage
from equipoise.train.parameters import count_by_group, full_size, local_part, reached_share, trainable


def describe(
    config: RunConfig, accelerator: Accelerator, model: SlateModel, batches: TrainBatches, steps: int
) -> Iterator[Table | str]:
    """What trains, on what, and how; `steps` are the optimizer steps of the whole run."""
    table = new_table(f"{config.name}: trainable parameters", ["part"], ["parameters"])
    for group, count in count_by_group(trainable(model).items()).items():
        table.add_row(group, f"{count:,}")
    frozen = sum(full_size(p) for p in model.parameters() if not p.requires_grad)
    table.add_row("frozen base", f"{frozen:,}")
    yield table
    yield (
        f"adapters of {type(model.backbone.trunk).__name__} reach {reached_share(model):.0%} of its layers' weights"
        f" (attention: {model.backbone.attention})"
    )
    own = sum(local_part(p).numel() for p in model.parameters() if not p.requires_grad)
    if shards_base(accelerator):
        yield f"each process holds {own / max(frozen, 1):.0%} of the frozen base; layers are gathered when they run"
    yield (
        f"{len(batches.slates):,} train slates; {_processes(accelerator)}, batches of {_measure(config)} each;"
        f" method {config.balancing.method}, normalize {config.balancing.normalize}"
    )
    if batches.order.parts != batches.order.processes:
        yield f"each global micro-batch is that of {batches.order.parts} such process(es), as the run began"
    if isinstance(batches.order, BudgetOrder):
        yield from _plan_lines(batches.order)
    passes = batches.order.epoch_at(steps * config.train.accumulate)
    several = f" of {config.train.accumulate} batches" if config.train.accumulate > 1 else ""
    yield f"{steps:,} steps{several} are {passes:.1f} passes over the train slates"
    for text, limit, share in _cut_shares(batches.slates.tokens.counts):
        yield f"{share:.1%} of the train split's {text} texts are cut at {limit}: raise it to keep them whole"


def _processes(accelerator: Accelerator) -> str:
    """How many processes there are, on what, and by which engine."""
    count, device = accelerator.num_processes, accelerator.device.type
    stage = f", ZeRO-{zero_stage(accelerator)}" if zero_stage(accelerator) else ""
    if count == 1 and not stage:
        return f"one process on {device}"
    return f"{count} process{'es' if count > 1 else ''} on {device} ({accelerator.distributed_type.value}{stage})"


def _measure(config: RunConfig) -> str:
    if config.train.batch_size is not None:
        return f"{config.train.batch_size} slates"
    return f"at most {config.train.token_budget:,} tokens"


def _plan_lines(order: BudgetOrder) -> list[str]:
    """What the first epoch's plan is like; the later ones differ a little."""
    plan, count = order.plan(0), order.count(0)
    where = "" if order.parts == 1 else " on all processes"
    even = "" if order.parts == 1 else f"; the fullest process holds {plan.imbalance:.3f} times the mean"
    lines = [f"an epoch has {count:,} batches of {len(plan.rows) / count:.1f} slates{where}{even}"]
    if plan.dropped:
        lines.append(f"{plan.dropped} slates at its end are fewer than processes and left out until the next epoch")
    if plan.oversize:
        lines.append(
            f"{plan.oversize:,} slates have more than train.max_tokens={order.max_tokens} tokens: each is alone in its "
            "process's share; lower data.max_candidates or train.negatives if memory does not hold them"
        )
    return lines


def _cut_shares(counts: TextCounts) -> list[tuple[str, str, float]]:
    shares = [
        ("prefix", "tokens.max_prefix", counts.cut_prefixes / max(counts.prefixes, 1)),
        ("candidate", "tokens.max_candidate", counts.cut_candidates / max(counts.candidates, 1)),
    ]
    return [share for share in shares if share[2] > 0]


def heads_line(epoch: int, total: int, losses: Mapping[str, float]) -> str:
    """One line of the phase before the first step: log losses on the valid split after so many passes."""
    each = "  ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    return f"heads alone, pass {epoch}/{total} | log loss on valid {each}"


def step_line(step: int, total: int, values: dict[str, float]) -> str:
    """One line: losses and weights α by objective, conflicts, learning rate, speed."""
    losses = "  ".join(f"{key.rsplit('/', 1)[1]} {v:.4f}" for key, v in values.items() if key.startswith("train/loss/"))
    weights = "  ".join(
        f"{key.rsplit('/', 1)[1]} {v:.3g}" for key, v in values.items() if key.startswith("balance/weight/")
    )
    conflicts = f"{values.get('balance/conflict_rate', 0.0):.0%}"
    if "balance/acts" in values:  # in how many steps a conflict was sure, so that the method acted
        conflicts += f" (acts {values['balance/acts']:.0%})"
    bad = {key.removeprefix("train/nonfinite/"): v for key, v in values.items() if key.startswith("train/nonfinite/")}
    bad["steps left out"] = values.get("train/skipped_step", 0.0)
    tiny = {key.removeprefix("balance/floored/"): v for key, v in values.items() if key.startswith("balance/floored/")}
    floored = ", ".join(f"{name} {share:.0%}" for name, share in tiny.items() if share)
    nonfinite = ", ".join(f"{name} {share:.0%}" for name, share in bad.items() if share)
    return (
        f"step {step}/{total} | loss {losses} | weight α {weights} | conflicts {conflicts}"
        f" | learning rate {values['train/lr']:.1e} | {values['perf/impressions_per_second']:.0f} impressions/s"
        + (f" | NOT FINITE: {nonfinite}" if nonfinite else "")
        + (f" | ALMOST NO GRADIENT: {floored}" if floored else "")
    )

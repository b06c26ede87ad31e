"""What a training job tells a person: the start-up table and one tidy line per log interval."""

from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from configs.schema import RunConfig
from modeling.model import SlateModel
from train.accelerate_setup import zero_stage
from train.assemble import DataParts
from train.parameters import count_by_group, full_size, trainable
from train.validation import spread_rows

LOOKED_AT = 100
"""Slates that are tokenised at start-up to tell how many texts are cut."""


def describe(console: Console, config: RunConfig, accelerator: Accelerator, model: SlateModel, data: DataParts) -> None:
    """Print what trains, on what, and how."""
    table = Table(title=f"{config.name}: trainable parameters", title_justify="left")
    table.add_column("part")
    table.add_column("parameters", justify="right")
    for group, count in count_by_group(trainable(model).items()).items():
        table.add_row(group, f"{count:,}")
    frozen = sum(full_size(p) for p in model.parameters() if not p.requires_grad)
    table.add_row("frozen base", f"{frozen:,}")
    console.print(table)
    stage = f", ZeRO-{zero_stage(accelerator)}" if zero_stage(accelerator) else ""
    console.print(
        f"{len(data.slates):,} train slates; {accelerator.num_processes} process(es) on {accelerator.device.type}"
        f" ({accelerator.distributed_type.value}{stage}), {config.train.batch_size} slates each ×"
        f" {config.train.accumulate}; method {config.balancing.method}, normalize {config.balancing.normalize}",
        soft_wrap=True,
    )
    for text, limit, share in _cut_shares(data):
        console.print(f"{share:.1%} of the {text} texts looked at are cut at {limit}: raise it to keep them whole")


def _cut_shares(data: DataParts) -> list[tuple[str, str, float]]:
    for row in spread_rows(len(data.slates), LOOKED_AT):
        data.slates.slate(row, data.tokenizer)
    seen, cut = data.tokenizer.seen, data.tokenizer.cut
    shares = [(text, f"tokens.max_{text}", cut[text] / max(seen[text], 1)) for text in ("prefix", "candidate")]
    return [share for share in shares if share[2] > 0]


def step_line(step: int, total: int, values: dict[str, float]) -> str:
    """One line: losses, weights, conflicts, learning rate, speed."""
    losses = "  ".join(f"{key.rsplit('/', 1)[1]} {v:.4f}" for key, v in values.items() if key.startswith("train/loss/"))
    weights = " ".join(f"{v:.3g}" for key, v in values.items() if key.startswith("balance/weight/"))
    conflicts = values.get("balance/conflict_rate", 0.0)
    return (
        f"step {step}/{total}  loss {losses}  α {weights}  conflicts {conflicts:.0%}"
        f"  lr {values['train/lr']:.1e}  {values['perf/impressions_per_second']:.0f} impressions/s"
    )

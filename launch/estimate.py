"""`equipoise estimate CONFIG`: what training will take, and on which GPUs it fits; needs neither weights nor data."""

from collections.abc import Sequence

from rich.table import Table

from equipoise.common.console import new_console, new_table
from equipoise.common.errors import UserError
from equipoise.configs.schema import RunConfig
from equipoise.modeling.precision import settle_precision
from equipoise.train.memory.estimate import FULL, Estimate, estimate
from equipoise.train.memory.fit import CARDS, GIB, PROCESSES, fits, optimizer_bytes


def print_estimate(
    config: RunConfig,
    gpus: Sequence[int] = (),
    cards: Sequence[int] = (),
    slates: int | None = None,
    candidates: int | None = None,
) -> None:
    """Print the parts of a training step's memory and one row per engine and number of processes.

    Args:
        config: of the run.
        gpus: numbers of processes, instead of 1, 2, 4, 8.
        cards: sizes of cards in GB, instead of 24, 40, 80, 141.
        slates, candidates: of the micro-batch, instead of the largest that the config allows.

    Raises:
        UserError: a number is below 1, or the backbone's config cannot be loaded.
    """
    options = {"--gpus": gpus, "--gpu-memory": cards, "--slates": [slates or 1], "--candidates": [candidates or 1]}
    given = {"--slates": slates, "--candidates": candidates}
    for name, numbers in options.items():
        number = given.get(name, min(numbers, default=1))
        if number is not None and number < 1:
            raise UserError(f"{name} {number} is no size: give at least 1")
    config = settle_precision(config)
    estimated = estimate(config, slates, candidates)
    console = new_console()
    console.print(parts_table(estimated))
    console.print(shape_sentence(config, estimated), soft_wrap=True, markup=False)
    console.print(fit_table(estimated, gpus or PROCESSES, cards or CARDS))


def parts_table(estimated: Estimate) -> Table:
    """Parameters, gradients, optimizer state and activations on one process."""
    table = new_table("one process: what a training step holds", ["part"], ["parameters", "size"])
    sizes = estimated.sizes
    kind = "frozen base, 4-bit" if sizes.quantized else "frozen base"
    table.add_row(kind, f"{sizes.base:,}", _size(sizes.base_bytes))
    for name, elements in sizes.groups.items():
        table.add_row(name, f"{elements:,}", _size(FULL * elements))
    gradients = FULL * sizes.trained
    table.add_row("gradients", "", _size(gradients))
    table.add_row("optimizer state (AdamW)", "", _size(optimizer_bytes(estimated)))
    table.add_row("activations at the peak", "", _size(max(0, estimated.peak - gradients)))
    step = sizes.base_bytes + gradients + optimizer_bytes(estimated) + max(estimated.peak, gradients)
    table.add_row("all of it", f"{sizes.base + sizes.trained:,}", _size(step), style="bold")
    return table


def shape_sentence(config: RunConfig, estimated: Estimate) -> str:
    """The micro-batch in words."""
    shape = estimated.shape
    checkpointing = "on" if config.backbone.checkpointing else "off"
    return (
        f"micro-batch: {shape.slates} slates × {shape.candidates} candidates of {shape.length} tokens, prefixes of "
        f"{shape.prefix}: {shape.tokens():,} tokens; {config.train.precision}, checkpointing {checkpointing}"
    )


def fit_table(estimated: Estimate, gpus: Sequence[int], cards: Sequence[int]) -> Table:
    """Per engine and number of processes the GiB of each GPU, and which cards hold them."""
    names = [f"{card} GB" for card in cards]
    table = new_table("per GPU (with 0.75 GiB for CUDA itself)", ["engine"], ["GPUs", "GiB per GPU", *names])
    for fit in fits(estimated, gpus):
        size = "not with 4bit" if fit.total is None else f"{fit.total / GIB:.1f}"
        marks = ["fits" if fit.holds(card) else "–" for card in cards]
        table.add_row(fit.engine, str(fit.processes), size, *marks)
    return table


def _size(count: int) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB else f"{count / 2**20:.1f} MiB"

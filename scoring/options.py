"""What `equipoise score` and `equipoise recommend` may be told; light, for the command line reads it."""

from dataclasses import dataclass
from pathlib import Path

from equipoise.common.options import option
from equipoise.serving.server.options import FIRST_HELP

BASE = "Base model: its folder or hub id."
AT_EXPORT = "where it was at export"


@dataclass(frozen=True)
class ScoreOptions:
    """What a call of `equipoise score` may choose."""

    items: Path | None = option(None, "Parquet table of items; default: the prepared ones.")
    omega: str | None = option(None, "Operating point: diversity=1.0,fairness=0.5.")
    block: int = option(1024, "Requests per part.")
    max_tokens: int | None = option(None, "Tokens per batch.", shown="16384")
    overwrite: bool = option(False, "Replace earlier scores.")


COMPUTES_BY = "plain; fused, few kernels and all towers at once; auto: fused on GPUs in bf16 where equal."
COMPUTES_IN = "fp32 as the golden prompts; bf16, twice as fast where the device has it; or auto."


@dataclass(frozen=True)
class RecommendOptions:
    """What a call of `equipoise recommend` may choose."""

    candidates: Path | None = option(None, "One list of candidates for all shoppers.")
    top: int | None = option(None, "Best candidates per request.", shown="all")
    omega: str | None = option(None, "Operating point: diversity=1.0,fairness=0.5.")
    value_weight: float | None = option(None, "Weight of log value.", shown="the export's")
    device: str = option("cpu", "Where the model runs, such as cuda.")
    dtype: str = option("fp32", COMPUTES_IN)
    kernels: str = option("auto", COMPUTES_BY)
    base: str | None = option(None, BASE, shown=AT_EXPORT)
    cache_mb: int = option(256, "MiB of prefixes of returning shoppers, and of items, that are kept.")
    max_candidates: int | None = option(None, "Of a request.", shown="as in training")
    first: int | None = option(None, FIRST_HELP, shown="all")
    explore: float = option(0.0, "Temperature of drawn lists, in units of utility; 0 draws none.")
    explore_seed: int | None = option(None, "Of the draws.", shown="a new one")
    overwrite: bool = option(False, "Replace an earlier file.")

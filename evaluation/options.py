"""What `equipoise front` and `equipoise compare` may be told; light, for the command line reads it."""

from dataclasses import dataclass, field
from pathlib import Path

from equipoise.common.errors import UserError
from equipoise.common.options import comma_separated, option

WAYS = ("knee", "weights", "constraint")


@dataclass(frozen=True)
class FrontOptions:
    """Which trade-offs are measured, and how one of them is chosen."""

    omegas: str | None = option(None, "ω to measure: diversity=0,0.5,1,fairness=0,1.")
    relevance: str | None = option(None, "Weights of log p to measure: cvr=0,0.5,1,2.")
    value: str | None = option(None, "A field's exponents to measure: price=0,0.5,1.")
    points: int = option(512, "Largest number of trade-offs; above it, a Sobol sample.")
    axes: str | None = option(None, "Axes of the front: ndcg,ild,exposure_ratio.")
    cutoff: int | None = option(None, "The k of all axes; default: the run's largest.")
    weights: str | None = option(None, "Choose by weights: ctr=0.6,cvr=0.4.")
    where: str | None = option(None, "Choose by constraint: 'exposure_ratio>=0.8'.")
    maximize: str | None = option(None, "What is largest under --where: ndcg.")
    all_choices: bool = option(False, "Show the choices by knee, weights and constraint.")
    choose: str | None = option(None, "Which of --all-choices counts.", shown="knee")
    resamples: int = option(200, "Bootstrap resamples of the requests.")
    test: bool = option(True, "Measure the choice on the test split too.")
    export: Path | None = option(None, "An export of this run to write the choice into.")

    def ways(self) -> tuple[str, ...]:
        """The ways to choose; exactly one, unless all are asked for.

        Raises:
            UserError: options that exclude or need each other.
        """
        if (self.where is None) != (self.maximize is None):
            raise UserError("--where and --maximize belong together: give both, or neither")
        if self.all_choices:
            if self.weights is None or self.where is None:
                raise UserError("--all-choices needs --weights, --where and --maximize: add what is missing")
            if self.choose is not None and self.choose not in WAYS:
                raise UserError(f"--choose {self.choose} is no way to choose: name one of {', '.join(WAYS)}")
            return WAYS
        if self.choose is not None:
            raise UserError("--choose says which of --all-choices counts: add --all-choices, or leave it out")
        if self.weights is not None and self.where is not None:
            raise UserError("--weights and --where are two ways to choose: drop one, or add --all-choices")
        return ("weights" if self.weights is not None else "constraint" if self.where is not None else "knee",)

    def chosen(self) -> str:
        """The way that counts."""
        return self.choose or self.ways()[0]


@dataclass(frozen=True)
class Question:
    """What a comparison asks of the runs."""

    split: str = option("test", "valid or test.")
    baseline: str | None = option(None, "Run that changes are told against.")
    metrics: tuple[str, ...] = option((), "Metrics to show: 'ctr/*,relevance/ndcg@10'.", read=comma_separated)
    axes: tuple[str, ...] = option((), "Axes of the fronts: ndcg@10,ild@10.", read=comma_separated)
    by: str = option("balancing.method", "Setting that tells methods apart.")
    resamples: int = option(200, "Bootstrap resamples of the requests.", lower_bound=0)


@dataclass(frozen=True)
class CompareOptions:
    """Which runs are compared, what is asked of them, and the files that are written."""

    question: Question = field(default_factory=Question)
    group: str | None = option(None, "Only the runs of this group (wandb.group).")
    from_wandb: tuple[Path, ...] = option((), "Folder of offline W&B runs; may be repeated.")
    wandb: str | None = option(None, "Put page and table into W&B: online or offline.")
    markdown: Path | None = option(None, "Write the tables as Markdown.")
    csv: Path | None = option(None, "Write one row per config as CSV.")
    png: Path | None = option(None, "Draw fronts and changes.")
    html: Path | None = option(None, "Write one page that holds everything.")

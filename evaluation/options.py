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
    knee: bool = option(False, "Choose the knee of the front.")
    weights: str | None = option(None, "Choose by weights: ctr=0.6,cvr=0.4.")
    where: str | None = option(None, "Choose by constraint: 'exposure_ratio>=0.8'.")
    maximize: str | None = option(None, "What is largest under --where: ndcg.")
    confidence: float = option(0.9, "Share of resamples in which --where must hold; 0: measured values alone.")
    all_choices: bool = option(False, "Show the choices by knee, weights and constraint.")
    choose: str | None = option(None, "Which of --all-choices counts.", shown="knee")
    resamples: int = option(200, "Bootstrap resamples of the requests.")
    requests: int | None = option(
        None, "Validation requests to measure on, spread over the split.", shown="evaluate.max_requests", lower_bound=1
    )
    test: bool = option(True, "Measure the choice on the test split too.")
    export: Path | None = option(None, "An export of this run to write the choice into.")
    logs: Path | None = option(None, "Logs of its drawn lists (`serve --log`): adds the axis money.")
    labels: Path | None = option(None, "What happened to them: request_id, item_id, click, conversion, value.")

    def ways(self) -> tuple[str, ...]:
        """The ways to choose: none, one, or all that there are.

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
        asked = {"knee": self.knee, "weights": self.weights is not None, "constraint": self.where is not None}
        ways = tuple(way for way in WAYS if asked[way])
        if len(ways) > 1:
            raise UserError("--knee, --weights and --where are ways to choose: keep one, or add --all-choices")
        if not ways and self.export is not None:
            raise UserError(
                "--export writes a choice into an export: add --knee, --weights or --where, or leave it out"
            )
        return ways

    def chosen(self) -> str | None:
        """The way that counts; None where nothing is chosen."""
        return self.choose or next(iter(self.ways()), None)


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
    wandb_project: tuple[str, ...] = option((), "W&B project, ENTITY/PROJECT, read online; may be repeated.")
    wandb: str | None = option(None, "Put page and table into W&B: online or offline.")
    markdown: Path | None = option(None, "Write the tables as Markdown.")
    csv: Path | None = option(None, "Write one row per config as CSV.")
    png: Path | None = option(None, "Draw fronts and changes.")
    html: Path | None = option(None, "Write one page that holds everything.")


@dataclass(frozen=True)
class OpeOptions:
    """What `equipoise ope` judges, and how."""

    labels: Path | None = option(None, "Table of what happened: request_id, item_id, click, conversion, value.")
    export: Path | None = option(None, "The export that made the lists: its operating point is judged first.")
    policy: Path | None = option(None, "YAML or JSON of operating points, or a run's front.json.")
    ranking: Path | None = option(None, "Table of another system's ranking: request_id, item_id, rank.")
    version: str | None = option(None, "Of several exports in the log, whose lists are read.", shown="the only one")
    estimator: str = option("dr", "dr (doubly robust), snips (self-normalised) or ips.")
    assume: str = option("item", "What a place earns depends on: item (and place), cascade (those above), slate.")
    out: Path | None = option(None, "JSON file to write.")

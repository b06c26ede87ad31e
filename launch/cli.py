"""The `equipoise` command line: thin, so that `--help` answers at once; each command imports what it needs."""

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from equipoise.common.errors import UserError
from equipoise.launch import cli_uses
from equipoise.launch.cli_uses import ExportArgument, RunArgument

app = typer.Typer(
    name="equipoise",
    help="Balanced multi-objective LoRA fine-tuning of language models for e-commerce recommendation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigArgument = Annotated[Path, typer.Argument(help="Run configuration (YAML).", metavar="CONFIG")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Settings to change: key.sub=value.", metavar="KEY=VALUE")]


@app.command()
def validate(config: ConfigArgument, overrides: Overrides = None) -> None:
    """Check a run configuration; needs no GPU and loads no model."""
    from equipoise.configs.load import load_config

    loaded = load_config(config, overrides or [])
    typer.echo(f"{config} is valid: run '{loaded.name}', objectives {', '.join(loaded.objectives.active())}")


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="Folder to write.", metavar="OUT")],
    shoppers: Annotated[int, typer.Option(help="How many shoppers.")] = 2_000,
    items: Annotated[int, typer.Option(help="How many items.")] = 200,
    requests: Annotated[int, typer.Option(help="How many requests.")] = 5_000,
    candidates: Annotated[int, typer.Option(help="Items shown in a request.")] = 12,
    events: Annotated[int, typer.Option(help="Purchases of a shopper before the first request.")] = 6,
    days: Annotated[int, typer.Option(help="Over which the requests are spread.")] = 60,
    position_bias: Annotated[float, typer.Option(help="η of (place + 1)^-η, the chance to be looked at.")] = 0.5,
    price_tests: Annotated[float, typer.Option(help="Share of impressions at a random price.")] = 0.6,
    price_spread: Annotated[float, typer.Option(help="Largest factor of a random price.")] = 1.8,
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 0,
    block: Annotated[int, typer.Option(help="Requests in memory at a time; changes no row.")] = 2_000,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier simulation.")] = False,
) -> None:
    """Write the tables of a simulated shop, and beside them its true click and purchase probabilities and demand."""
    from equipoise.data.simulator.settings import SimulatorSettings
    from equipoise.launch.simulate import write_simulation as simulate_run

    settings = SimulatorSettings(
        shoppers=shoppers, items=items, requests=requests, candidates=candidates, events=events, days=days,
        position_bias=position_bias, price_tests=price_tests, price_spread=price_spread, seed=seed,
    )  # fmt: skip
    simulate_run(out, settings, block, overwrite)


@app.command()
def prepare(config: ConfigArgument, overrides: Overrides = None) -> None:
    """Turn the tables into slates: validate, split by time, join histories, render, write Parquet and token ids."""
    from equipoise.configs.load import load_config

    loaded = load_config(config, overrides or [])
    from equipoise.launch.prepare import prepare_data as run

    run(loaded)


@app.command()
def tokenize(config: ConfigArgument, overrides: Overrides = None) -> None:
    """Turn the prepared texts into token ids, once for a backbone and its limits; `prepare` ends with it."""
    from equipoise.configs.load import load_config

    loaded = load_config(config, overrides or [])
    from equipoise.launch.token_cache import write_tokens as run

    run(loaded)


@app.command()
def train(
    config: ConfigArgument,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint of this run.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier run in the same folder.")] = False,
) -> None:
    """Train all adapters at once; for several processes use `accelerate launch -m equipoise.launch.train CONFIG`."""
    from equipoise.configs.load import load_config

    loaded = load_config(config, overrides or [])
    from equipoise.train.job import train as run

    run(loaded, resume=resume, overwrite=overwrite)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="The sweep (YAML).", metavar="SWEEP")],
    arguments: Annotated[list[str] | None, typer.Argument(help="With --trial.", metavar="KEY=VALUE")] = None,
    parallel: Annotated[int | None, typer.Option(help="Runs at the same time, not the sweep's number.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed ones again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and print the plan, run nothing.")] = False,
    collect: Annotated[bool, typer.Option("--collect", help="Run nothing: list the states, end the sweep.")] = False,
    only: Annotated[int | None, typer.Option(help="Execute this run of the plan, as an array's task does.")] = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="Write the scripts of one Slurm array.")] = False,
    submit: Annotated[bool, typer.Option("--submit", help="Hand them to sbatch too.")] = False,
    wandb_agent: Annotated[bool, typer.Option("--wandb-agent", help="Write the config of a W&B sweep.")] = False,
    trial: Annotated[bool, typer.Option("--trial", help="Execute the run that W&B's agent asks for.")] = False,
) -> None:
    """Train and evaluate many runs: grids, lists, random draws, seeds. Called again, it goes on with what is left."""
    from equipoise.sweep.command import SweepOptions
    from equipoise.sweep.command import run_sweep as sweep_run

    options = SweepOptions(
        parallel=parallel, retry_failed=retry_failed, dry_run=dry_run, collect=collect, only=only, slurm=slurm,
        submit=submit, wandb_agent=wandb_agent, trial=trial,
    )  # fmt: skip
    sweep_run(file, options, arguments or [])


@app.command()
def estimate(
    config: ConfigArgument,
    overrides: Overrides = None,
    gpus: Annotated[list[int] | None, typer.Option(help="Numbers of GPUs; may be given several times.")] = None,
    gpu_memory: Annotated[list[int] | None, typer.Option(help="GB of a card; may be given several times.")] = None,
    slates: Annotated[int | None, typer.Option(help="Slates of a micro-batch, not the config's.")] = None,
    candidates: Annotated[int | None, typer.Option(help="Candidates of a slate, not train.negatives + 2.")] = None,
) -> None:
    """Tell what training will take and on which GPUs it fits; needs the backbone's config.json alone."""
    from equipoise.configs.load import load_config

    loaded = load_config(config, overrides or [])
    from equipoise.launch.estimate import print_estimate as run

    run(loaded, gpus or (), gpu_memory or (), slates, candidates)


@app.command()
def evaluate(
    run: RunArgument,
    split: Annotated[str, typer.Option(help="valid or test.")] = "test",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Settings to change: key.sub=value.")] = None,
) -> None:
    """Score a split and compare with trivial baselines: calibration, ranking, groups, operating points."""
    from equipoise.evaluation.evaluate_run import evaluate_run

    evaluate_run(run, split, overrides or [])


@app.command()
def score(
    run: RunArgument,
    requests: Annotated[Path, typer.Argument(help="Parquet file of requests, or a folder.", metavar="REQUESTS")],
    out: Annotated[Path, typer.Argument(help="Folder to write.", metavar="OUT")],
    items: Annotated[Path | None, typer.Option(help="Parquet table of items; default: the prepared ones.")] = None,
    omega: Annotated[str | None, typer.Option(help="Operating point: diversity=1.0,fairness=0.5.")] = None,
    block: Annotated[int, typer.Option(help="Requests per part.")] = 1024,
    max_tokens: Annotated[int | None, typer.Option(help="Padded tokens per batch.", show_default="16384")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace earlier scores.")] = False,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Settings to change: key.sub=value.")] = None,
) -> None:
    """Score any number of requests, streaming; called again, go on. Also `-m equipoise.launch.score`."""
    from equipoise.scoring.score_run import ScoreOptions, score_run

    options = ScoreOptions(items=items, omega=omega, block=block, max_tokens=max_tokens, overwrite=overwrite)
    score_run(run, requests, out, options, overrides or [])


@app.command()
def export(
    run: RunArgument,
    out: Annotated[Path, typer.Argument(help="Folder to write.", metavar="OUT")],
    golden: Annotated[int, typer.Option(help="Number of golden prompts.")] = 32,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier export.")] = False,
    formats: Annotated[str, typer.Option("--format", help="peft (always written), merged, onnx.")] = "peft",
    dtype: Annotated[str, typer.Option(help="Of merged checkpoints: float32 or bfloat16.")] = "float32",
    int8: Annotated[bool, typer.Option("--int8", help="Also an ONNX graph in int8, measured.")] = False,
) -> None:
    """Write one standard PEFT adapter per objective, and prove that plain transformers + peft give the same logits."""
    from equipoise.export.formats import Formats
    from equipoise.export.write import export_run

    export_run(run, out, golden=golden, overwrite=overwrite, formats=Formats.parse(formats, dtype, int8))


@app.command()
def serve(
    export: ExportArgument,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    cache_mb: Annotated[int, typer.Option(help="MiB for prefixes of returning shoppers; 0: no cache.")] = 256,
    token_env: Annotated[str | None, typer.Option(help="Environment variable with the bearer token.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the bearer token.")] = None,
    max_candidates: Annotated[
        int | None, typer.Option(help="Candidates of a request.", show_default="the export's limit")
    ] = None,
    max_body_kb: Annotated[int, typer.Option(help="KiB of a request.")] = 1024,
    timeout_s: Annotated[float, typer.Option(help="Seconds to send a request, and again to answer it.")] = 30.0,
    queue: Annotated[int, typer.Option(help="Requests that may wait for the model.")] = 256,
    batching: Annotated[bool, typer.Option(help="Let waiting requests pass the model together.")] = True,
    batch_candidates: Annotated[int, typer.Option(help="Candidates of a pass of the model.")] = 256,
    batch_wait_ms: Annotated[float, typer.Option(help="How long a pass waits for further requests.")] = 0.0,
    device: Annotated[str, typer.Option(help="Where the model runs, such as cuda.")] = "cpu",
) -> None:
    """Answer HTTP requests with an export: ranked slates, health, metrics, and a page to try it."""
    from equipoise.launch.serve import serve_export as serve_run
    from equipoise.serving.server.options import ServerOptions

    options = ServerOptions(
        host=host,
        port=port,
        max_candidates=max_candidates,
        max_body_kb=max_body_kb,
        timeout_s=timeout_s,
        queue=queue,
        batching=batching,
        batch_candidates=batch_candidates,
        batch_wait_ms=batch_wait_ms,
    )
    serve_run(export, options, cache_mb=cache_mb, token_env=token_env, token_file=token_file, device=device)


@app.command()
def recommend(
    export: ExportArgument,
    users: Annotated[Path, typer.Option(help="Requests: Parquet, CSV or JSONL.")],
    out: Annotated[Path, typer.Option(help="File to write: .parquet, .csv or .jsonl.")],
    candidates: Annotated[Path | None, typer.Option(help="One list of candidates for all shoppers.")] = None,
    top: Annotated[int | None, typer.Option(help="Best candidates per request.", show_default="all")] = None,
    omega: Annotated[str | None, typer.Option(help="Operating point: diversity=1.0,fairness=0.5.")] = None,
    value_weight: Annotated[
        float | None, typer.Option(help="Weight of log value.", show_default="the export's")
    ] = None,
    device: Annotated[str, typer.Option(help="Where the model runs, such as cuda.")] = "cpu",
    cache_mb: Annotated[int, typer.Option(help="MiB of prefixes of returning shoppers that are kept.")] = 256,
    max_candidates: Annotated[int | None, typer.Option(help="Of a request.", show_default="as in training")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier file.")] = False,
) -> None:
    """Rank candidates for every shopper of a file with an export, streaming."""
    from equipoise.scoring.recommend import RecommendOptions
    from equipoise.scoring.recommend import recommend_file as recommend_run

    options = RecommendOptions(candidates, top, omega, device, cache_mb, max_candidates, overwrite, value_weight)
    recommend_run(export, users, out, options)


@app.command()
def front(
    run: RunArgument,
    omegas: Annotated[str | None, typer.Option(help="ω to measure: diversity=0,0.5,1,fairness=0,1.")] = None,
    relevance: Annotated[str | None, typer.Option(help="Weights of log p to measure: cvr=0,0.5,1,2.")] = None,
    value: Annotated[str | None, typer.Option(help="A field's exponents to measure: price=0,0.5,1.")] = None,
    points: Annotated[int, typer.Option(help="Largest number of trade-offs; above it, a Sobol sample.")] = 512,
    axes: Annotated[str | None, typer.Option(help="Axes of the front: ndcg,ild,exposure_ratio.")] = None,
    cutoff: Annotated[int | None, typer.Option(help="The k of all axes; default: the run's largest.")] = None,
    weights: Annotated[str | None, typer.Option(help="Choose by weights: ctr=0.6,cvr=0.4.")] = None,
    where: Annotated[str | None, typer.Option(help="Choose by constraint: 'exposure_ratio>=0.8'.")] = None,
    maximize: Annotated[str | None, typer.Option(help="What is largest under --where: ndcg.")] = None,
    all_choices: Annotated[bool, typer.Option(help="Show the choices by knee, weights and constraint.")] = False,
    choose: Annotated[str | None, typer.Option(help="Which of --all-choices counts.", show_default="knee")] = None,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples of the requests.")] = 200,
    test: Annotated[bool, typer.Option(help="Measure the choice on the test split too.")] = True,
    export: Annotated[Path | None, typer.Option(help="An export of this run to write the choice into.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Settings to change: key.sub=value.")] = None,
) -> None:
    """Measure the Pareto front of trade-offs without training again, and choose the operating point (default: knee)."""
    from equipoise.evaluation.front.front_of_run import FrontOptions
    from equipoise.evaluation.front.front_of_run import measure_front as front_run

    options = FrontOptions(
        omegas=omegas, relevance=relevance, value=value, points=points, axes=axes, cutoff=cutoff, weights=weights,
        where=where, maximize=maximize, all_choices=all_choices, choose=choose, resamples=resamples, test=test,
        export=export,
    )  # fmt: skip
    front_run(run, options, overrides or [])


@app.command()
def diagnose(run: RunArgument) -> None:
    """Tell which objectives fight, where and since when, and what the steps do to each; draw it as balance.png."""
    from equipoise.evaluation.balance.diagnose import diagnose_run

    diagnose_run(run)


@app.command()
def report(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option(help="Page to write.", show_default="RUN/report.html")] = None,
    split: Annotated[
        str | None, typer.Option(help="Evaluation to show.", show_default="test, or what there is")
    ] = None,
) -> None:
    """Write one self-contained HTML page of a run, from its folder alone."""
    from equipoise.evaluation.run_page.write import report_run

    report_run(run, out, split)


@app.command()
def compare(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders, or folders of runs.", metavar="RUN…")] = None,
    group: Annotated[str | None, typer.Option(help="Only the runs of this group (wandb.group).")] = None,
    runs_folder: Annotated[Path, typer.Option("--runs", help="Where --group looks without RUN.")] = Path("runs"),
    baseline: Annotated[str | None, typer.Option(help="Run that changes are told against.")] = None,
    split: Annotated[str, typer.Option(help="valid or test.")] = "test",
    metrics: Annotated[str | None, typer.Option(help="Metrics to show: 'ctr/*,relevance/ndcg@10'.")] = None,
    axes: Annotated[str | None, typer.Option(help="Axes of the fronts: ndcg@10,ild@10.")] = None,
    by: Annotated[str, typer.Option(help="Setting that tells methods apart.")] = "balancing.method",
    resamples: Annotated[int, typer.Option(min=0, help="Bootstrap resamples of the requests.")] = 200,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables as Markdown.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write one row per config as CSV.")] = None,
    png: Annotated[Path | None, typer.Option(help="Draw fronts and changes.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write one page that holds everything.")] = None,
    from_wandb: Annotated[list[Path] | None, typer.Option(help="Folder of offline W&B runs; may be repeated.")] = None,
    wandb: Annotated[str | None, typer.Option(help="Put page and table into W&B: online or offline.")] = None,
) -> None:
    """Compare runs from their folders alone: seeds pooled, best marked, changes, fronts, cost."""
    if not runs and group is None and not from_wandb:
        raise UserError("name the runs to compare: `equipoise compare RUN…`, `--group G` or `--from-wandb FOLDER`")
    from equipoise.evaluation.compare.compare_runs import CompareOptions
    from equipoise.evaluation.compare.compare_runs import compare_folders as compare_run
    from equipoise.evaluation.compare.comparison import Question

    def names(text: str | None) -> tuple[str, ...]:
        return tuple(name.strip() for name in (text or "").split(",") if name.strip())

    question = Question(split, baseline, names(metrics), names(axes), by, resamples)
    options = CompareOptions(question, group, tuple(from_wandb or ()), wandb, markdown, csv, png, html)
    compare_run(runs or ([] if from_wandb else [runs_folder]), options)


cli_uses.add_to(app)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; what the user can mend ends in one sentence on stderr and exit code 2."""
    try:
        app(arguments)
    except UserError as error:
        if int(os.environ.get("RANK", "0")):
            time.sleep(5)  # rank 0 says the same, and the launcher ends us as soon as it has
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()

"""Commands that judge runs."""

from pathlib import Path
from typing import Annotated

import typer

from equipoise.common.errors import UserError
from equipoise.evaluation.options import CompareOptions, FrontOptions, OpeOptions
from equipoise.launch.parameters import Adapters, RunArgument, Set, with_adapters, with_options


def evaluate(
    run: RunArgument,
    split: Annotated[str, typer.Option(help="valid or test.")] = "test",
    adapters: Adapters = None,
    overrides: Set = None,
) -> None:
    """Score a split and compare with trivial baselines: calibration, ranking, groups, operating points."""
    from equipoise.evaluation.evaluate_run import evaluate_run

    evaluate_run(run, split, with_adapters(overrides, adapters))


@with_options
def front(run: RunArgument, options: FrontOptions, adapters: Adapters = None, overrides: Set = None) -> None:
    """Measure the Pareto front of trade-offs without training again, and choose the operating point where asked to."""
    from equipoise.evaluation.front.front_of_run import measure_front

    measure_front(run, options, with_adapters(overrides, adapters))


def diagnose(run: RunArgument) -> None:
    """Tell which objectives conflict, where and since when, and what the steps do to each; draw it as balance.png."""
    from equipoise.evaluation.balance.diagnose import diagnose_run

    diagnose_run(run)


def report(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option(help="Page to write.", show_default="RUN/report.html")] = None,
    split: Annotated[
        str | None, typer.Option(help="Evaluation to show.", show_default="test, or what there is")
    ] = None,
) -> None:
    """Write one self-contained HTML page of a run, from its folder alone."""
    from equipoise.evaluation.run_page.run_page import report_run

    report_run(run, out, split)


def newcomers(
    run: RunArgument,
    requests: Annotated[int | None, typer.Option(help="Most requests per group; default: max_requests.", min=1)] = None,
    events: Annotated[list[int] | None, typer.Option(help="Told of a new one: 5, 2, 1 by default.", min=1)] = None,
    adapters: Adapters = None,
    overrides: Set = None,
) -> None:
    """Measure shoppers unseen in training beside the known ones: as told, by few events, by profile, by nothing."""
    from equipoise.evaluation.cold_start import EVENTS, measure_cold_start

    measure_cold_start(run, requests, with_adapters(overrides, adapters), tuple(events) if events else EVENTS)


@with_options
def compare(
    options: CompareOptions,
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders, or folders of runs.", metavar="RUN…")] = None,
    runs_folder: Annotated[Path, typer.Option("--runs", help="Where --group looks without RUN.")] = Path("runs"),
) -> None:
    """Compare runs from their folders alone: seeds pooled, best marked, changes, fronts, cost."""
    elsewhere = bool(options.from_wandb or options.wandb_project)
    if not runs and options.group is None and not elsewhere:
        raise UserError(
            "name the runs to compare: `equipoise compare RUN…`, `--group G`, `--from-wandb FOLDER` or "
            "`--wandb-project ENTITY/PROJECT`"
        )
    from equipoise.evaluation.compare.compare_runs import compare_folders

    compare_folders(runs or ([] if elsewhere else [runs_folder]), options)


@with_options
def ope(
    logs: Annotated[Path, typer.Argument(help="Folder that `serve --log` wrote.", metavar="LOGS")],
    options: OpeOptions,
) -> None:
    """Estimate from logs of drawn lists what other operating points would have earned, with intervals."""
    from equipoise.evaluation.ope.judge_logs import judge_logs

    judge_logs(logs, options)


COMMANDS = (evaluate, front, ope, diagnose, report, newcomers, compare)

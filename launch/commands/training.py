"""Commands that train, or tell what training takes."""

import os
from pathlib import Path
from typing import Annotated

import typer

from equipoise.common.errors import UserError, format_error
from equipoise.common.process import INTERRUPTED
from equipoise.launch.parameters import ConfigArgument, Overrides, with_options
from equipoise.sweep.options import SweepOptions


def train(
    config: ConfigArgument,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint of this run.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier run in the same folder.")] = False,
    auto_resume: Annotated[
        bool,
        typer.Option(
            "--auto-resume",
            help="Go on where this run has begun, else begin: for schedulers and launchers that start a job again.",
        ),
    ] = False,
) -> None:
    """Train all adapters at once; for several processes use `equipoise launch --accelerate NAME train CONFIG`.

    Exit code 75: a signal stopped it, a checkpoint is written, and --resume goes on.
    """
    if auto_resume and (resume or overwrite):
        raise UserError("--auto-resume decides by itself whether to go on: drop --resume and --overwrite")
    from equipoise.configs.load import load_config

    loaded = load_config(config, overrides or [])
    from equipoise.train.job import train as train_run
    from equipoise.train.run_folder import has_begun, is_torn

    if auto_resume:  # every process sees the same: none writes before all have met
        resume, overwrite = has_begun(loaded.output), is_torn(loaded.output)
    summary = train_run(loaded, resume=resume, overwrite=overwrite)
    if summary is None:
        raise typer.Exit(INTERRUPTED)
    if int(os.environ.get("RANK", "0")) == 0:
        _draw_balance(loaded.output)
        typer.echo(f"next: equipoise evaluate {loaded.output}")


def _draw_balance(run: Path) -> None:
    """Draw the balancing of a finished run, which a failure to draw must not fail."""
    from equipoise.common.console import new_console

    console = new_console()
    try:
        from equipoise.evaluation.balance.balance_plot import draw  # matplotlib loads only here

        console.print(f"balancing: {draw(run)}; in words: equipoise diagnose {run}", soft_wrap=True)
    except Exception as error:
        warning = f"warning: balance.png is not drawn ({format_error(error)}): try again with equipoise diagnose {run}"
        console.print(warning, soft_wrap=True, markup=False)


def launch(
    arguments: Annotated[
        list[str],
        typer.Argument(
            help="Options of `accelerate launch` (--num_processes 4 …), a command (train, evaluate, score, front), and "
            "what follows it there.",
            metavar="[OPTIONS] COMMAND ARGS…",
        ),
    ],
    accelerate: Annotated[
        str | None,
        typer.Option(
            help="Packaged Accelerate config (zero1, zero2, zero3, fsdp2, ddp, multi_node, cpu, cpu_ddp2 …) or a file.",
            metavar="NAME|FILE",
            show_default="Accelerate's own default config",
        ),
    ] = None,
) -> None:
    """Run a command in many processes: `equipoise launch --accelerate zero3 train CONFIG`."""
    from equipoise.launch.launch_job import launch_job

    launch_job(accelerate, arguments)


@with_options
def sweep(
    file: Annotated[Path, typer.Argument(help="The sweep (YAML).", metavar="SWEEP")],
    options: SweepOptions,
    arguments: Annotated[list[str] | None, typer.Argument(help="With --trial.", metavar="KEY=VALUE")] = None,
) -> None:
    """Train and evaluate many runs: grids, lists, random draws, seeds. Called again, it goes on with what is left."""
    from equipoise.launch.sweep import run_sweep

    run_sweep(file, options, arguments or [])


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
    from equipoise.launch.estimate import print_estimate

    print_estimate(loaded, gpus or (), gpu_memory or (), slates, candidates)


def nightly(
    config: ConfigArgument,
    overrides: Overrides = None,
    day: Annotated[
        str | None, typer.Option(help="Last day (UTC) whose logs are complete: 2026-01-31.", metavar="DAY")
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(help="Folder of days, runs, exports and the link.", show_default="OUTPUT-nightly"),
    ] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="Serve the export before this one again.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Prepare and judge a day that was refused anew.")] = False,
    accelerate: Annotated[
        str | None,
        typer.Option(help="Train in many processes, as `launch` does.", metavar="NAME|FILE", show_default="one"),
    ] = None,
) -> None:
    """Append a day, train from the run before, compare with what is served, and switch to it or refuse it.

    Exit code 3: the model or the day was refused, and what was served stays. 75: a signal stopped the training; the
    same command goes on.
    """
    from equipoise.configs.load import load_config

    loaded = load_config(config, overrides or [])
    from equipoise.launch.nightly import nightly as run
    from equipoise.nightly.night import Interrupted

    try:
        code = run(loaded, day, state, rollback, again, accelerate)
    except Interrupted:
        code = INTERRUPTED
    if code:
        raise typer.Exit(code)


def run(
    config: ConfigArgument,
    overrides: Overrides = None,
    export: Annotated[
        Path | None, typer.Option(help="Folder of the export.", show_default="in exports/, named as the run folder")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Begin anew: replace the run and the export.")] = False,
    accelerate: Annotated[
        str | None,
        typer.Option(help="Train in many processes, as `launch` does.", metavar="NAME|FILE", show_default="one"),
    ] = None,
) -> None:
    """From tables to a checked export: prepare, train, evaluate, export, report. Called again, go on with what is left.

    Exit code 75: a signal stopped the training, and the same command goes on.
    """
    from equipoise.configs.load import load_config

    loaded = load_config(config, overrides or [])
    from equipoise.launch.run import run_all

    if not run_all(loaded, export, overwrite, accelerate):
        raise typer.Exit(INTERRUPTED)


COMMANDS = (run, train, nightly, sweep, estimate)

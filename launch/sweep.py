"""`equipoise sweep SWEEP.yaml`: plan many runs, make their data once, execute what is left, list and compare them.

The same plan can run here, as one Slurm array, or under W&B's agent.
"""

from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console

from equipoise.common.console import new_console
from equipoise.common.errors import UserError
from equipoise.sweep.after import NAME, compare_runs, sync_lines
from equipoise.sweep.board import MOST_ROWS, Board, states_table
from equipoise.sweep.claim import Claim, claim, make_ready
from equipoise.sweep.config import SweepConfig, load_sweep
from equipoise.sweep.data_once import check_folders, make_data
from equipoise.sweep.job import JobOutcome, run_job
from equipoise.sweep.options import SweepOptions
from equipoise.sweep.plan import PlannedRun, make_plan, same_settings
from equipoise.sweep.pool import RunPool, share_devices
from equipoise.sweep.record import read_record
from equipoise.sweep.slurm import check_listed, submit, write_array
from equipoise.sweep.wandb_agent import plan_trial, wandb_settings, write_wandb_settings


def run_sweep(file: Path, options: SweepOptions, arguments: Sequence[str] = ()) -> None:
    """Do what `options` ask of the sweep in `file`.

    Args:
        file: SWEEP.yaml.
        options: of the command line.
        arguments: settings of a single run, for `--trial`.

    Raises:
        UserError: the sweep is refused, before anything runs.
        typer.Exit: 1 where a run failed, 128 + n where signal n ended the sweep.
    """
    options.check(arguments)
    sweep, console = load_sweep(file), new_console()
    if options.trial:
        raise typer.Exit(_execute(sweep, plan_trial(sweep, arguments), retry_failed=True))
    if sweep.search is not None:
        _refuse_elsewhere(options)
        from equipoise.launch.sweep_search import search_plan  # matplotlib and scikit-learn load only here

        plan = search_plan(sweep)
    else:
        plan = make_plan(sweep)
    check_folders(plan)
    if options.wandb_agent:
        _prepare_agent(sweep, file, plan, console)
        return
    if options.only is not None:
        raise typer.Exit(_only(sweep, plan, options))
    claimed = claim(sweep, plan, options.retry_failed)
    if options.dry_run:
        _print_plan(sweep, plan, claimed, console)
    elif options.slurm or options.submit:
        _array(sweep, file, plan, claimed, options, console)
    else:
        if not options.collect:
            plan = _run_all(sweep, plan, claimed, options, console)
        _end(sweep, plan, console)


def _refuse_elsewhere(options: SweepOptions) -> None:
    asked = {"--slurm": options.slurm, "--submit": options.submit, "--wandb-agent": options.wandb_agent}
    for name, given in {**asked, "--only": options.only is not None}.items():
        if given:
            raise UserError(
                f"{name}: search proposes runs from the results of earlier ones, so it runs here: drop the option"
            )


def _run_all(
    sweep: SweepConfig, plan: list[PlannedRun], claimed: Claim, options: SweepOptions, console: Console
) -> list[PlannedRun]:
    """Execute what is left on this machine; returns the plan, to which a search has added what it proposed."""
    parallel = options.parallel or sweep.parallel
    _local(sweep, plan, claimed, parallel, console)
    if sweep.search is None:
        return plan
    from equipoise.launch.sweep_search import run_search

    def execute(known: list[PlannedRun]) -> None:
        _local(sweep, known, claim(sweep, known), parallel, console)

    return run_search(sweep, execute, parallel, lambda text: console.print(text, markup=False, soft_wrap=True))


def _local(sweep: SweepConfig, plan: list[PlannedRun], claimed: Claim, parallel: int, console: Console) -> None:
    if not claimed.todo:
        return
    devices = share_devices(sweep.gpus, parallel)
    for planned in claimed.todo:
        make_ready(sweep, planned, parallel)
    make_data(claimed.todo)
    with Board(console, f"sweep {sweep.name}", plan) as board:
        ended_by = RunPool(claimed.todo, devices, board).run()
    if ended_by is not None:
        left = len(claim(sweep, plan).todo)
        console.print(f"stopped, {left} of {len(plan)} runs are left: the same command goes on with them")
        raise typer.Exit(128 + ended_by)


def _end(sweep: SweepConfig, plan: list[PlannedRun], console: Console) -> None:
    """List the states, compare what is finished, and tell by the exit code whether a run failed."""
    claimed = claim(sweep, plan)
    if len(plan) <= MOST_ROWS:
        console.print(states_table(f"sweep {sweep.name}", plan))
    console.print(
        f"{len(claimed.finished)} of {len(plan)} runs finished, {len(claimed.failed)} failed, "
        f"{len(claimed.todo)} to do: {sweep.output}",
        soft_wrap=True,
    )
    for planned in claimed.failed:
        record = read_record(planned.folder)
        assert record is not None, "a failed run has a record"
        console.print(f"failed: {planned.name}: {record.error}", style="red", markup=False, soft_wrap=True)
        console.print(f"  log: {record.log}", markup=False, soft_wrap=True)
    if claimed.failed:
        console.print("run failed ones again with --retry-failed")
    if sweep.search is not None and claimed.finished:
        _print_front(sweep, plan, console)
    if sweep.after == "compare" and claimed.finished:
        compare_runs(sweep, plan)
        console.print(f"comparison: {sweep.output / f'{NAME}.html'}", soft_wrap=True)
    lines = sync_lines(sweep.output, plan)
    if lines:
        console.print("W&B was offline; send the runs with:")
        for line in lines:
            console.print(f"  {line}", markup=False, soft_wrap=True)
    if claimed.failed:
        raise typer.Exit(1)


def _print_front(sweep: SweepConfig, plan: list[PlannedRun], console: Console) -> None:
    from equipoise.launch.sweep_search import front_table, results, write_front

    found = results(sweep, plan)
    if found.front:
        console.print(front_table(found))
        console.print(f"front: {write_front(found, sweep.output)}", soft_wrap=True)


def _print_plan(sweep: SweepConfig, plan: list[PlannedRun], claimed: Claim, console: Console) -> None:
    states = {r.name: name for name, runs in vars(claimed).items() for r in runs}
    common = [text for text in plan[0].overrides if len(plan) > 1 and all(text in r.overrides for r in plan)]
    if common:
        console.print(f"every run: {' '.join(common)}", markup=False, soft_wrap=True)
    for planned in plan:
        own = " ".join(text for text in planned.overrides if text not in common)
        console.print(f"{planned.index}  {states[planned.name]}  {planned.name}  {own}", markup=False, soft_wrap=True)
    for names in same_settings(plan):
        console.print(f"note: the same settings: {', '.join(names)}", markup=False, soft_wrap=True)
    if sweep.search is not None and sweep.random is not None:
        left = sweep.random.count - len(plan) // max(1, len(sweep.seeds))
        console.print(f"then {left} draws more are proposed by their results")
    console.print(f"{len(plan)} runs are valid; {len(claimed.todo)} to do, in {sweep.output}", soft_wrap=True)


def _only(sweep: SweepConfig, plan: list[PlannedRun], options: SweepOptions) -> int:
    assert options.only is not None
    if not 0 <= options.only < len(plan):
        raise UserError(f"--only {options.only}: the plan has runs 0 to {len(plan) - 1}")
    check_listed(sweep, plan[options.only])
    return _execute(sweep, plan[options.only], options.retry_failed)


def _execute(sweep: SweepConfig, planned: PlannedRun, retry_failed: bool) -> int:
    """Execute one run in this process; returns its exit code."""
    claimed = claim(sweep, [planned], retry_failed)
    if claimed.todo:
        make_ready(sweep, planned)
        outcome = run_job(planned.folder)
    else:
        outcome = JobOutcome.FAILED if claimed.failed else JobOutcome.FINISHED
    record = read_record(planned.folder)
    why = f": {record.error}; see {record.log}" if record and record.error else ""
    phrases = {JobOutcome.STOPPED: "stopped, to be gone on with", JobOutcome.ELSEWHERE: "executed by another process"}
    print(f"{planned.name} {phrases.get(outcome, outcome.name.lower())}{why}", flush=True)
    return int(outcome)


def _array(
    sweep: SweepConfig, file: Path, plan: list[PlannedRun], claimed: Claim, options: SweepOptions, console: Console
) -> None:
    if not claimed.todo:
        console.print(f"nothing to do: all {len(plan)} runs are finished, or failed (--retry-failed)")
        return
    for planned in claimed.todo:
        make_ready(sweep, planned)
    make_data(claimed.todo)
    scripts = write_array(sweep, file, plan, claimed.todo, options.retry_failed)
    for script in scripts:
        console.print(f"written: {script}", soft_wrap=True)
    if options.submit:
        for script, number in zip(scripts, submit(scripts), strict=True):
            console.print(f"submitted: {script} as job {number}", soft_wrap=True)
    else:
        console.print("hand them to sbatch with --submit, or by hand: the second with --dependency=afterany:JOB")


def _prepare_agent(sweep: SweepConfig, file: Path, plan: list[PlannedRun], console: Console) -> None:
    settings = wandb_settings(sweep, file, plan[0].config)
    path = write_wandb_settings(settings, sweep.output)
    console.print(path.read_text(encoding="utf-8"), markup=False, soft_wrap=True)
    count = f" --count {sweep.random.count}" if sweep.random else ""
    console.print(f"written: {path}. Then:\n  wandb sweep {path}\n  wandb agent{count} SWEEP_ID", soft_wrap=True)

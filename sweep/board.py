"""What a running sweep shows: on a terminal a live table, elsewhere one line per change."""

import time
from collections import Counter

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from equipoise.sweep.plan import PlannedRun
from equipoise.sweep.record import JobRecord, State, last_step, read_record

MOST_ROWS = 40
REFRESH_SECONDS = 0.5
STYLES: dict[State, str] = {
    "waiting": "dim", "running": "cyan", "stopped": "yellow", "failed": "red", "finished": "green",
}  # fmt: skip


class Board:
    """The states of a plan's runs, told as they change.

    Args:
        console: to write to.
        title: of the sweep.
        plan: its runs.
    """

    def __init__(self, console: Console, title: str, plan: list[PlannedRun]) -> None:
        self.console, self.title, self.plan = console, title, plan
        self.states: dict[str, State] = {}
        self.live: Live | None = None
        self._shown = 0.0

    def __enter__(self) -> "Board":
        for run in self.plan:
            record = read_record(run.folder)
            self.states[run.name] = record.state if record else "waiting"
        if self.console.is_terminal:
            # Refreshed by hand: a thread beside a process that forks is one too many.
            self.live = Live(console=self.console, auto_refresh=False)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.refresh(force=True)
            self.live.stop()

    def tell(self, run: PlannedRun, state: State, text: str = "") -> None:
        """A run has changed its state."""
        self.states[run.name] = state
        if not self.live:
            done = Counter(self.states.values())["finished"]
            line = f"[{done}/{len(self.plan)}] {state} {run.name}{f' ({text})' if text else ''}"
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        self.refresh(force=True)

    def refresh(self, force: bool = False) -> None:
        """Draw the live table again, if it is time."""
        now = time.monotonic()
        if self.live and (force or now - self._shown > REFRESH_SECONDS):
            self._shown = now
            self.live.update(self._picture(), refresh=True)

    def _picture(self) -> Group:
        counts = Counter(self.states.values())
        counts_text = ", ".join(f"{counts[state]} {state}" for state in STYLES if counts[state])
        bar = ProgressBar(total=max(1, len(self.plan)), completed=counts["finished"], width=40)
        table = Table(box=None, padding=(0, 1), show_header=False)
        for state in ("running", "failed"):
            for run in self.plan:
                if self.states[run.name] == state and table.row_count < MOST_ROWS:
                    table.add_row(*row(run, read_record(run.folder), state))
        head = Table.grid(padding=(0, 2))
        head.add_row(bar, Text(f"{self.title}: {counts_text}"))
        return Group(head, table)


def row(run: PlannedRun, record: JobRecord | None, state: State) -> tuple[Text, Text, Text, Text]:
    """Name, state, how far and how long, and the error of a run."""
    step, total = last_step(run.folder), run.config.train.max_steps
    far = f"step {step}{f' of {total}' if total else ''}" if step is not None else ""
    seconds = record.seconds if record else 0.0
    if record and state == "running" and record.started:
        seconds += time.time() - record.started
        far = f"{record.step} {far}" if record.step else far
    return (
        Text(run.name, overflow="fold"),
        Text(state, style=STYLES[state]),
        Text(f"{far}  {seconds:,.0f} s" if seconds else far),
        Text((record.error or "") if record and state == "failed" else "", style="red", overflow="fold"),
    )


def states_table(title: str, plan: list[PlannedRun]) -> Table:
    """All runs of a plan with their states, as their folders tell."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1), show_header=False)
    for run in plan:
        record = read_record(run.folder)
        table.add_row(str(run.index), *row(run, record, record.state if record else "waiting"))
    return table

"""`equipoise report RUN`: one self-contained page of a run, from its folder alone."""

from pathlib import Path

from rich.console import Console

from equipoise.evaluation.run_page.missing import held
from equipoise.evaluation.run_page.page import write_report

FILE_NAME = "report.html"
PARTS = ("data", "curves", "balance", "evaluation", "recall", "front", "slates")


def report_run(folder: Path, out: Path | None = None, split: str | None = None) -> None:
    """Write the page, and say what it could not show and which command gives it.

    Args:
        folder: of the run.
        out: the page; None is report.html in the run folder.
        split: whose evaluation is shown; None takes test where it is evaluated, otherwise valid.

    Raises:
        UserError: the folder holds no run, or a file in it cannot be read.
    """
    console = Console(highlight=False)
    path = out or folder / FILE_NAME
    data = write_report(folder, path, split)
    for part in (data[name] for name in PARTS):
        if part is not None and not held(part):
            console.print(f"{part['missing']} Run: {part['command']}", soft_wrap=True, markup=False)
    console.print(f"report: {path}", soft_wrap=True, markup=False)

"""Puts a comparison into W&B: the page and the table, as things to look at and as one artifact."""

import csv
import tempfile
from pathlib import Path
from typing import Any

from equipoise.common.errors import UserError
from equipoise.evaluation.compare.comparison import Comparison
from equipoise.evaluation.compare.comparison_page import write_page
from equipoise.evaluation.compare.tables import write_csv

MODES = ("online", "offline")
DEFAULT_PROJECT = "equipoise"


def upload(comparison: Comparison, mode: str, group: str | None) -> str:
    """Send the same page and table that the files hold; returns where they are, or how they are sent later.

    Args:
        comparison: of runs; the project is that of the first of them.
        mode: online or offline.
        group: of the new W&B run, whose job type is compare.

    Raises:
        UserError: the mode is another one, or W&B cannot be reached.
    """
    if mode not in MODES:
        raise UserError(f"--wandb {mode}: write one of {', '.join(MODES)}")
    import wandb

    records = [run for pool in comparison.pools for run in pool.runs]
    project = (records[0].config.get("wandb") or {}).get("project") or DEFAULT_PROJECT
    with tempfile.TemporaryDirectory() as name:
        page, table = Path(name) / "comparison.html", Path(name) / "comparison.csv"
        write_page(comparison, page)
        write_csv(comparison, table)
        try:
            run: Any = wandb.init(project=project, job_type="compare", group=group, mode=mode)  # type: ignore[arg-type]
            artifact = wandb.Artifact("comparison", type="comparison")
            artifact.add_file(str(page))
            artifact.add_file(str(table))
            run.log_artifact(artifact, aliases=["latest"])
            run.log({"comparison": _table(wandb, table), "page": wandb.Html(page.read_text("utf-8"), inject=False)})
            folder, address = Path(run.dir).parent, run.url
            run.finish()
        except wandb.errors.Error as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"--wandb: W&B did not take it ({reason}): write --wandb offline, or log in") from error
    return f"sent: {address}" if mode == "online" else f"W&B is offline; send the comparison with: wandb sync {folder}"


def _table(wandb: Any, path: Path) -> Any:
    """The CSV as a W&B table; numbers as numbers."""
    with path.open(newline="") as file:
        head, *rows = csv.reader(file)
    return wandb.Table(columns=head, data=[[_number(cell) for cell in row] for row in rows], allow_mixed_types=True)


def _number(cell: str) -> float | str | None:
    try:
        return float(cell) if cell else None
    except ValueError:
        return cell

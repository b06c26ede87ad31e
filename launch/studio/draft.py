"""A first run configuration of the chosen tables, as `equipoise init` proposes it: to be read, changed and checked."""

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from equipoise.common.errors import UserError
from equipoise.launch.studio.jobs import COMMAND_LINE

MOST_SECONDS = 300


def proposed(tables: Sequence[str], options: Sequence[tuple[str, str]], folder: Path) -> tuple[str, str]:
    """The YAML of a run, and what the command said of the tables.

    Args:
        tables: paths in the workspace.
        options: of the command, with their values.
        folder: of the workspace.

    Raises:
        UserError: the command refuses the tables, in its words, or does not end.
    """
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / "run.yaml"
        given = [f"{name}={value}" for name, value in (*options, ("--out", str(out)))]
        command = [*COMMAND_LINE, "init", "--yes", *given, "--", *tables]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=MOST_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise UserError("looking at the tables took too long: run `equipoise init` in a terminal") from error
        if done.returncode:
            sentence = " ".join(done.stderr.split()).removeprefix("error: ")
            sentence = sentence.replace("Say so with --format", "Say so under Formats:")
            raise UserError(sentence or f"equipoise init ended with code {done.returncode}: run it in a terminal")
        said = [line for line in done.stdout.splitlines() if str(out) not in line]
        return out.read_text("utf-8"), "\n".join(said)

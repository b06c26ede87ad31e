"""`python -m equipoise.launch.studio.job_process JOB`: runs one command and writes down how it ended.

It is a process of its own, so that a job outlives the studio that started it. A signal to its group reaches the
command, which may end in its own way; this process waits for it. The standard library alone is loaded.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any


def run(folder: Path) -> None:
    """Run the command in `folder`/job.json, its output in output.log, and write result.json at its end."""
    job = json.loads((folder / "job.json").read_text("utf-8"))
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: None)  # a handler, for what is ignored stays ignored in the command
    with (folder / "output.log").open("ab") as output:
        child = subprocess.Popen(
            job["argv"], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=job["workspace"]
        )
        write(folder / "process.json", {"pid": os.getpid(), "group": os.getpgrp()})
        code = child.wait()
    write(folder / "result.json", {"code": code})


def write(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value), "utf-8")
    partial.replace(path)


if __name__ == "__main__":
    run(Path(sys.argv[1]))

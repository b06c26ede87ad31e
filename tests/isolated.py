"""`python -I -c CODE` forked from a server that is itself isolated and has imported the public libraries alone.

The check of an export runs in a process that cannot import the project; a tiny one spends its time on importing torch,
Transformers and PEFT. Nothing of the project has ever been imported where these fork, and the check still proves so.
"""

import atexit
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

PRELOADED = [
    "torch",
    "peft",
    "safetensors.torch",
    *(f"transformers.models.{name}.modeling_{name}" for name in ("llama", "qwen3", "mistral", "gpt2", "bert")),
    "transformers.models.auto.tokenization_auto",
    "transformers.models.roberta.modeling_roberta",
]
SERVER = """
import importlib, json, os, sys, traceback
for name in json.loads(sys.stdin.readline()):
    importlib.import_module(name)
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for number, file in enumerate(job["files"]):
                os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), number)
            sys.stdin = open(0, closefd=False)
            os.chdir(job["cwd"])
            sys.path[:0] = job["path"]
            if job["env"] is not None:
                os.environ.clear()
                os.environ.update(job["env"])
            exec(compile(job["code"], "<string>", "exec"), {"__name__": "__main__"})
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def run(
    command: Sequence[str], cwd: Path | str, env: dict[str, str] | None = None, given: str = ""
) -> subprocess.CompletedProcess[str]:
    """Like `subprocess.run([sys.executable, "-c", CODE], input=given, capture_output=True, …)`, also with `-I`."""
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("stdin", "stdout", "stderr")]
        files[0].write_text(given)
        path = [] if "-I" in command else [""]  # as Python has it
        job = {"code": command[-1], "cwd": str(cwd), "path": path, "env": env, "files": [str(file) for file in files]}
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        try:
            code = int(server.stdout.readline())
        except BaseException:  # a test's time is over: the next one must not wait for the same child
            server.kill()
            _server.cache_clear()
            raise
        printed = [file.read_text() for file in files[1:]]
    return subprocess.CompletedProcess(command, code, *printed)


class Popen:
    """Like `subprocess.Popen` with three pipes and `text`; it runs once it is given its input."""

    def __init__(self, command: Sequence[str], cwd: str, **_: Any) -> None:
        self.command, self.cwd, self.returncode = command, cwd, -9

    def communicate(self, given: str = "") -> tuple[str, str]:
        if not given:
            return "", ""
        done = run(self.command, self.cwd, given=given)
        self.returncode = done.returncode
        return done.stdout, done.stderr

    def kill(self) -> None:
        """Nothing runs between two calls."""


@cache
def _server() -> subprocess.Popen[str]:
    command = [sys.executable, "-I", "-c", SERVER]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    server.stdin.write(json.dumps(PRELOADED) + "\n")
    atexit.register(server.stdin.close)  # it ends with its input
    return server

"""Server processes to measure, and load on them from another process."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving_hostile import MAX_BODY_KB, MAX_CANDIDATES

ROOT = Path(__file__).resolve().parent.parent
CACHE_MB = 512


@dataclass(frozen=True)
class Variant:
    """A way to serve: with or without prefix cache and micro-batching, and whether of an export with an apart trunk."""

    cache: bool = True
    batching: bool = True
    apart: bool = False

    @property
    def suffix(self) -> str:
        """What distinguishes its figures; nothing for the defaults."""
        parts = {"_nocache": not self.cache, "_nobatch": not self.batching, "_apart": self.apart}
        return "".join(part for part, holds in parts.items() if holds)


VARIANTS = (Variant(), Variant(cache=False), Variant(batching=False), Variant(cache=False, batching=False))


@dataclass(frozen=True)
class Loaded:
    """What clients saw: answers per second, the seconds of each, and how often each status came."""

    rate: float
    seconds: np.ndarray
    statuses: dict[str, int]

    @property
    def answered(self) -> int:
        """Requests that were answered well."""
        return self.statuses.get("200", 0)

    @property
    def server_errors(self) -> int:
        """Answers with a 5xx."""
        return sum(count for status, count in self.statuses.items() if status.startswith("5"))


@dataclass(frozen=True)
class Server:
    """A running server."""

    host: str
    port: int

    def load(self, clients: int, seconds: float, bodies: Sequence[str], least: int = 1) -> Loaded:
        """Load from a process of its own.

        Args:
            clients: how many send at once.
            seconds: for how long they begin new requests.
            bodies: of the requests, as JSON.
            least: requests that each client sends, however long it takes.

        Raises:
            RuntimeError: the generator failed.
        """
        plan: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "clients": clients,
            "seconds": seconds,
            "least": least,
        }
        plan["bodies"] = list(bodies)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.serving_load"],
            input=json.dumps(plan),
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the load generator failed:\n{done.stderr[-2000:]}")
        report = json.loads(done.stdout)
        answered = report["statuses"].get("200", 0)
        return Loaded(answered / report["elapsed"], np.array(report["seconds"]), report["statuses"])


@contextmanager
def serving(export: Path, variant: Variant) -> Iterator[Server]:
    """`equipoise serve` in a process.

    Raises:
        RuntimeError: it does not start, or does not end with exit code 0.
    """
    options = ["--cache-mb", str(CACHE_MB if variant.cache else 0)]
    options += ["--max-body-kb", str(MAX_BODY_KB), "--max-candidates", str(MAX_CANDIDATES)]
    options += ["--batching" if variant.batching else "--no-batching"]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "equipoise.launch.cli", "serve", str(export), "--port", "0", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "COLUMNS": "500"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    output, address = "", None
    try:
        for line in process.stdout:
            output += line
            if address := re.search(r"at http://([\d.]+):(\d+)", line):
                break
        if address is None:
            raise RuntimeError(f"the server did not start:\n{output[-2000:]}")
        yield Server(address.group(1), int(address.group(2)))
        process.terminate()
        if code := process.wait(60):
            raise RuntimeError(f"the server ended with exit code {code}")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()

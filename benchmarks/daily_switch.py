"""32 clients at a server while the link that it follows is led to another export: how many requests fail."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.daily_shop import shop_config, size_of
from benchmarks.figures import figure
from benchmarks.serving_process import Loaded, Server, Variant, serving
from equipoise.nightly.state import State

CLIENTS = 32
SECONDS = {True: 12.0, False: 60.0}
"""Of load, in the quick form and in the whole one; longer where the new export takes longer to load."""
MOST_SECONDS = 600.0


def measure(work: Path, quick: bool) -> list[dict[str, Any]]:
    """Figures of a switch under load, between the first and the last export of the nights in `work`.

    Raises:
        RuntimeError: there are no two exports, or the server never switched.
    """
    state = State.of(shop_config(work, size_of(quick), quick), work / "state")
    names = sorted(path.name for path in (state.folder / "exports").glob("????-??-??"))
    if len(names) < 2:
        raise RuntimeError(f"{state.folder} has {len(names)} export(s): measure the part nights first")
    state.switch(names[0])
    examples = (state.export(names[0]) / "examples.jsonl").read_text("utf-8").splitlines()
    beside = ("name", "clicked", "converted")
    bodies = [json.dumps({k: v for k, v in json.loads(line).items() if k not in beside}) for line in examples]
    loads: list[Loaded] = []
    with serving(state.link, Variant()) as server:
        before, seconds = _version(server), SECONDS[quick]
        loading = threading.Thread(target=lambda: loads.append(server.load(CLIENTS, seconds, bodies)))
        loading.start()
        time.sleep(seconds / 4)
        state.switch(names[-1])
        start, took = time.perf_counter(), None
        while took is None and time.perf_counter() - start < MOST_SECONDS:
            if _version(server) != before:
                took = time.perf_counter() - start
            time.sleep(0.1)
            if took is None and not loading.is_alive():  # the switch is to come under load
                loading = threading.Thread(target=lambda: loads.append(server.load(CLIENTS, seconds, bodies)))
                loading.start()
        loading.join()
        if took is None:
            raise RuntimeError(f"the server did not switch from {before}: its log says why")
        version = _version(server)
    asked = sum(sum(load.statuses.values()) for load in loads)
    failed = asked - sum(load.answered for load in loads)
    return [
        figure("switch_failed_requests", failed, "requests", of=asked, clients=CLIENTS, to=version),
        figure("switch_seconds", took, "s from the link to the new answers"),
    ]


def _version(server: Server) -> str:
    return httpx.get(f"http://{server.host}:{server.port}/health", timeout=60, trust_env=False).json()["export_version"]

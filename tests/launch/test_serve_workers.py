"""`equipoise serve --workers N`: one address, several processes that come back when they die and end together."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from equipoise.common.errors import UserError
from equipoise.serving.server import workers
from equipoise.serving.server.options import ServerOptions
from equipoise.serving.server.workers import Counts, Worker
from tests.launch.first_life import answers_in_its_first_life
from tests.launch.test_serve import get, served


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Processes that serve for this one."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):  # it has ended meanwhile
            parent = re.search(r"^PPid:\s*(\d+)", status.read_text(), re.MULTILINE)
            command = (status.parent / "cmdline").read_bytes()
            if parent and int(parent[1]) == process.pid and b"spawn_main" in command:
                found.append(int(status.parent.name))
    return found


def runs(number: int) -> bool:
    """Whether a process does; one that has ended may stay in the table where nobody asks for it."""
    try:
        status = Path(f"/proc/{number}/status").read_text()
    except OSError:
        return False
    return re.search(r"^State:\s*Z", status, re.MULTILINE) is None


def within(seconds: float, holds: Callable[[], Any]) -> Any:
    """What `holds` says as soon as that is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := holds():
            return found
        time.sleep(0.2)
    pytest.fail("it did not come about")


def counted(address: str) -> dict[str, float]:
    """Ranked requests that each worker has counted."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=60) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    names = [family.name for family in families]
    assert len(names) == len(set(names))  # a measure stands once
    requests = next(family for family in families if family.name == "equipoise_requests")
    return {s.labels["worker"]: s.value for s in requests.samples if s.labels["route"] == "/rank"}


def rank(address: str, example: dict[str, Any]) -> list[Any]:
    """The ranked candidates."""
    body = json.dumps(example).encode()
    asked = urllib.request.Request(f"{address}/rank", body, {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.load(answer)["candidates"]


@pytest.mark.slow
def test_processes_answer_come_back_and_end_together(tiny_export: Any) -> None:
    with served(str(tiny_export("bert").folder), "--workers", "2", "--timeout-s", "60") as (process, address):
        example = get(f"{address}/examples")["examples"][0]["request"]
        ranked = [rank(address, example) for _ in range(20)]
        assert all(each == ranked[0] for each in ranked)
        assert sum(counted(address).values()) == 20 and counted(address).keys() <= {"0", "1"}
        first, other = workers_of(process)
        os.kill(first, signal.SIGKILL)
        for _ in range(5):
            assert rank(address, example) == ranked[0]  # the other goes on
        within(120, lambda: len(both := workers_of(process)) == 2 and other in both and first not in both)
        process.terminate()
        assert process.wait(60) == 0
        assert process.stdout is not None
        said = process.stdout.read()
        assert "has ended (exit code -9): it is started again" in said and said.strip().endswith("stopped")
        assert not workers_of(process)


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(tiny_export: Any) -> None:
    with served(str(tiny_export("bert").folder), "--workers", "2") as (process, address):
        left = workers_of(process)
        assert len(left) == 2
        process.kill()

        def gone() -> bool:
            return not any(runs(number) for number in left)

        within(60, gone)
        with pytest.raises(OSError, match="refused"):
            get(f"{address}/health")


@pytest.mark.slow
def test_an_export_that_cannot_be_loaded_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception) as failed, served(str(tmp_path), "--workers", "3"):
        pass
    said = str(failed.value)
    assert len(re.findall(r"error: .*" + re.escape(str(tmp_path)), said)) == 1 and "Traceback" not in said
    assert "error: a worker ended before it answered" in said


def test_a_worker_that_no_longer_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long each of its lives takes to end without an answer."""
    monkeypatch.setattr(workers, "SHORT_SECONDS", 0.1)
    started: list[bool] = []
    with pytest.raises(UserError, match="worker 0 ends again and again"):
        workers.run_workers(1, answers_in_its_first_life, (tmp_path / "lives",), lambda: started.append(True))
    assert started == [True] and (tmp_path / "lives").stat().st_size == 1 + workers.MOST_SHORT_LIVES


def test_each_worker_has_draws_and_files_of_its_own(tmp_path: Path) -> None:
    options = ServerOptions(explore_seed=7, keep_state=tmp_path / "keep.json")
    own, again = ([Worker(number, 3, tmp_path).own(options) for number in range(3)] for _ in range(2))
    assert len({each.explore_seed for each in own}) == 3 and own == again
    assert [each.keep_state for each in own] == [tmp_path / f"keep-{number}.json" for number in range(3)]
    assert Worker(0, 3, tmp_path).own(ServerOptions()) == ServerOptions()
    assert Worker(0, 10_000, tmp_path).threads() == 1


def test_counts_are_those_of_all_workers(tmp_path: Path) -> None:
    def page(value: int) -> bytes:
        requests = CounterMetricFamily("x_requests", "Answered.", value)
        return generate_latest(SimpleNamespace(collect=lambda: [requests]))

    counts = [Counts(Worker(number, 3, tmp_path), lambda n=number: page(10 + n)) for number in range(2)]  # one is away
    for each in counts:
        (family,) = text_string_to_metric_families(each.whole_page().decode())
        told = {sample.labels["worker"]: sample.value for sample in family.samples if sample.name == "x_requests_total"}
        assert told == {"0": 10.0, "1": 11.0} and family.documentation == "Answered."

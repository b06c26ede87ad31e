"""`equipoise serve` as a process: it starts, answers, ends well, and says what is wrong."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from equipoise.common.errors import UserError
from equipoise.common.token import read_token
from equipoise.launch.cli import main
from equipoise.launch.serve import check_options, is_loopback
from equipoise.serving.server.options import ServerOptions

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def served(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process and its address."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "equipoise.launch.cli", "serve", *arguments, "--port", "0"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = ""
        for line in process.stdout:
            said += line
            if found := re.search(r"at (http://\S+)", line):
                yield process, found.group(1)
                return
        pytest.fail(f"it did not start: {said}")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def get(address: str, **headers: str) -> Any:
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=20) as answer:
        return json.load(answer)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_and_ends_with_0(tiny_export: Any, stop: signal.Signals) -> None:
    export = str(tiny_export("bert").folder)
    with served(export, "--token-env", "SECRET", SECRET="tea") as (process, address):
        assert get(f"{address}/health")["listwise"] == ["diversity", "fairness"]
        example = get(f"{address}/examples", authorization="Bearer tea")["examples"][0]["request"]
        asked = urllib.request.Request(
            f"{address}/rank",
            json.dumps(example).encode(),
            {"content-type": "application/json", "authorization": "Bearer tea"},
        )
        with urllib.request.urlopen(asked, timeout=20) as answer:
            assert len(json.load(answer)["candidates"]) == len(example["candidates"])
        process.send_signal(stop)
        assert process.wait(20) == 0
        assert process.stdout is not None
        assert process.stdout.read().strip() == "stopped"


def test_a_port_in_use_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as stop:
        main(["serve", str(tmp_path), "--port", str(taken.getsockname()[1])])
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert "cannot listen on 127.0.0.1 port" in printed and "choose another --port" in printed


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7"])
def test_an_address_of_nobody_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["serve", str(tmp_path), "--host", host, "--port", "0"])
    assert stop.value.code == 2
    assert f"cannot listen on {host}" in capsys.readouterr().err


def test_no_export_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["serve", str(tmp_path), "--port", "0"])
    assert stop.value.code == 2
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"max_candidates": 0}, "--max-candidates"),
        ({"max_body_kb": 0}, "--max-body-kb"),
        ({"queue": 0}, "--queue"),
        ({"workers": 0}, "--workers"),
        ({"batch_candidates": 0}, "--batch-candidates"),
        ({"batch_wait_ms": -1.0}, "--batch-wait-ms"),
        ({"batch_wait_ms": float("nan")}, "--batch-wait-ms"),
        ({"max_explained": 0}, "--max-explained"),
        ({"allowed_host": ("http://shop.example",)}, "--allowed-host"),
        ({"allowed_host": ("shop.*.example",)}, "--allowed-host"),
        ({"batch_wait_ms": 2000.0, "timeout_s": 1.0}, "--batch-wait-ms"),
        ({"timeout_s": 0.0}, "--timeout-s"),
        ({"timeout_s": float("inf")}, "--timeout-s"),
    ],
)
def test_senseless_options_are_refused(changes: dict[str, Any], name: str) -> None:
    check_options(ServerOptions(), 0)
    with pytest.raises(UserError, match=name):
        check_options(ServerOptions(**changes), 0)
    with pytest.raises(UserError, match="--cache-mb"):
        check_options(ServerOptions(), -1)


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_an_open_server_without_a_token_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, host: str, warned: bool
) -> None:
    with pytest.raises(SystemExit):
        main(["serve", str(tmp_path), "--host", host, "--port", "0"])
    assert ("no token is asked for" in caplog.text) == warned
    with pytest.raises(SystemExit):
        (tmp_path / "token").write_text("tea")
        caplog.clear()
        main(["serve", str(tmp_path), "--host", host, "--port", "0", "--token-file", str(tmp_path / "token")])
    assert "no token is asked for" not in caplog.text


def test_loopback_addresses() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.8.9.1", "::1", "localhost", "LOCALHOST."]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.168.0.7", "shop.example"]))


def test_tokens_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOD", " tea\n")
    monkeypatch.setenv("SPACED", "green tea")
    (tmp_path / "token").write_text("soap\n")
    (tmp_path / "empty").write_text("\n")
    assert read_token(None, None) is None
    assert read_token("GOOD", None) == "tea"
    assert read_token(None, tmp_path / "token") == "soap"
    for variable, file in (("SPACED", None), ("UNSET_HERE", None), (None, tmp_path / "empty"), (None, tmp_path / "no")):
        with pytest.raises(UserError, match="--token-"):
            read_token(variable, file)
    with pytest.raises(UserError, match="twice"):
        read_token("GOOD", tmp_path / "token")


@pytest.mark.slow
def test_a_missing_extra_names_it(tmp_path: Path) -> None:
    """In a process where fastapi cannot be imported."""
    hidden = "import sys; sys.modules['fastapi'] = None\nfrom equipoise.launch.cli import main"
    code = f"{hidden}; main(['serve', {str(tmp_path)!r}])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "pip install 'equipoise[serve]'" in done.stderr

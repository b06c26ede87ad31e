"""Preparing on Spark: the same rows as by DuckDB, the same sentences on bad tables, and refusals before any work."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks.same_folder import differences
from equipoise.common.errors import UserError
from equipoise.configs.engine import SparkConfig
from equipoise.configs.schema import DataConfig
from equipoise.data.labels import LabelStats
from equipoise.data.manifest import Manifest
from equipoise.data.prepare import examination
from equipoise.data.prepare.headers import check_headers
from equipoise.data.prepare.parts import Part
from equipoise.data.prepare.slates import prepare
from tests.data.prepare.tiny_shop import START, all_settings, place_settings, write_shop

DWELL = {"dwell": LabelStats(label="dwell", form="value", chain=["click"])}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of the tiny shop."""
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder)
    return folder


def both(
    settings: dict[str, Any], out: Path, on_spark: dict[str, Any] | None = None, **given: Any
) -> tuple[Path, Path]:
    """The folders that DuckDB and Spark prepare; `on_spark`: other tables for Spark."""
    folders = out / "duckdb", out / "spark"
    for folder in folders:
        if folder.name == "spark":
            settings = settings | {"tables": settings["tables"] | (on_spark or {})}
        prepare(DataConfig.model_validate(settings | {"folder": str(folder), "engine": folder.name}), **given)
    return folders


@pytest.mark.slow
def test_the_folder_is_the_same(shop: Path, session: Any, tmp_path: Path) -> None:
    one, other = both(all_settings(shop, tmp_path), tmp_path, labels=DWELL)
    assert differences(one, other) == []
    # Tables that hold no sum of fractions are the same file.
    assert (one / "items.parquet").read_bytes() == (other / "items.parquet").read_bytes()
    manifest = Manifest.read(one)
    assert manifest.counts["impressions"] > 400 and manifest.dropped == Manifest.read(other).dropped
    shards = [pq.read_table(path).to_pylist() for path in sorted((other / "slates").iterdir())]
    rows = [row for shard in shards for row in shard]
    # All that the configuration asks for is there to be compared.
    assert all(any(row[name] for row in rows) for name in ("bought", "things", "prefix", "user_city"))
    assert any("bought" in row["prefix"] and "seen" in row["prefix"] for row in rows)
    assert not (other / ".work").exists()


@pytest.mark.slow
def test_places_formats_and_weights(shop: Path, session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "LEAST_ROWS", 20)
    users = session.read.csv(str(shop / "users.csv"), header=True, escape='"')
    users.createOrReplaceGlobalTempView("shop_users")  # as a table of the cluster's catalogue is there for all sessions
    query = {"users": {"query": "SELECT * FROM global_temp.shop_users"}}
    one, other = both(place_settings(shop, tmp_path), tmp_path, on_spark=query)
    assert differences(one, other) == []
    assert Manifest.read(other).position is not None and Manifest.read(other).weights is not None


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["label", "twice"])
def test_bad_tables_are_refused_alike(shop: Path, session: Any, tmp_path: Path, damage: str) -> None:
    lines = (shop / "impressions.csv").read_text("utf-8").splitlines()
    cells = lines[7].split(",")
    bad = ",".join([*cells[:4], "2", *cells[5:]]) if damage == "label" else lines[6]
    path = tmp_path / "impressions.csv"
    path.write_text("\n".join([*lines[:7], bad, *lines[8:], ""]), encoding="utf-8")
    told = []
    for engine in ("duckdb", "spark"):
        settings = all_settings(shop, tmp_path / engine) | {"engine": engine}
        settings["tables"] = settings["tables"] | {"impressions": str(path)}
        with pytest.raises(UserError) as refused:
            prepare(DataConfig.model_validate(settings))
        told.append(str(refused.value))
        assert not (tmp_path / engine).exists()
    assert told[0] == told[1]
    assert ("click '2' in row 7" if damage == "label" else "2 times: keep one row per key") in told[0]


def _json_lines(settings: dict[str, Any]) -> None:
    settings["tables"]["items"] = str(Path(settings["tables"]["items"]).with_name("items.jsonl"))


def _encoded(settings: dict[str, Any]) -> None:
    settings["tables"]["users"] = {"path": settings["tables"]["users"], "encoding": "latin-1"}


def _attached(settings: dict[str, Any]) -> None:
    settings["tables"]["users"] = {"query": "SELECT * FROM shop.users", "attach": {"shop": "shop.duckdb"}}


def _hub(settings: dict[str, Any]) -> None:
    settings["tables"]["items"] = "hf://datasets/shop/items.parquet"


def _public(settings: dict[str, Any]) -> None:
    del settings["tables"]
    settings["source"] = "complete_journey"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_json_lines, "data.tables.items: data.engine: spark does not read JSON lines"),
        (_encoded, "data.tables.users.encoding: latin-1 is not read by data.engine: spark"),
        (_attached, "data.tables.users.attach opens databases in DuckDB alone"),
        (_hub, "data.tables.items: data.engine: spark does not read hf://"),
        (_public, "reads your own tables, not source: complete_journey"),
    ],
)
def test_what_spark_does_not_read(
    shop: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    settings = all_settings(shop, tmp_path / "out") | {"engine": "spark"}
    change(settings)
    with pytest.raises(UserError, match=r"set data\.engine=duckdb") as refused:
        prepare(DataConfig.model_validate(settings))
    assert message in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_validate_says_what_it_did_not_check(shop: Path, tmp_path: Path) -> None:
    settings = all_settings(shop, tmp_path / "out") | {"engine": "spark"}
    assert check_headers(DataConfig.model_validate(settings), {}, ()) == []
    settings["tables"] = settings["tables"] | {"users": {"query": "SELECT * FROM warehouse.shop.users"}}
    assert "were not checked" in check_headers(DataConfig.model_validate(settings), {}, ())[0]


def test_a_day_is_duckdbs(shop: Path, tmp_path: Path) -> None:
    config = DataConfig.model_validate(all_settings(shop, tmp_path / "out") | {"engine": "spark"})
    with pytest.raises(UserError, match=r"data\.engine=duckdb"):
        prepare(config, part=Part(None, START))


@pytest.mark.parametrize(
    ("hidden", "config", "message"),
    [
        ("pyspark", {}, 'pip install "equipoise\\[spark\\]"'),
        ("sqlglot", {}, 'needs sqlglot: pip install "equipoise\\[spark\\]"'),
        ("java", {}, "needs Java 17 or newer"),
        ("", {"master": "sc://there:15002"}, "does not speak Spark Connect"),
    ],
)
def test_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, hidden: str, config: dict[str, str], message: str
) -> None:
    from equipoise.data.prepare.spark import session as module

    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == hidden else object())
    monkeypatch.setattr(module.shutil, "which", lambda name: None if name == hidden else name)
    with pytest.raises(UserError, match=message):
        module.refuse_missing_packages(SparkConfig.model_validate(config))


def test_a_cluster_needs_a_folder_that_it_reaches(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from equipoise.data.prepare.spark import session as module

    monkeypatch.setattr(module, "is_local", lambda started: False)
    with (
        pytest.raises(UserError, match=r"name with data\.spark\.work a folder"),
        module.open_spark(SparkConfig(), tmp_path),
    ):
        pass


@pytest.mark.slow
def test_tasks_run_in_this_python(session: Any, tmp_path: Path) -> None:
    """Also where the `python3` of the PATH is another, without DuckDB and PyArrow."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").write_text("#!/bin/sh\nexit 9\n", encoding="utf-8")
    (tmp_path / "bin" / "python3").chmod(0o755)
    code = (
        "from pathlib import Path\n"
        "from equipoise.configs.engine import SparkConfig\n"
        "from equipoise.data.prepare.spark.session import open_spark\n"
        f"with open_spark(SparkConfig(), Path({str(tmp_path)!r})) as con:\n"
        "    print(con.execute(\"SELECT CAST(t AS DOUBLE) FROM (SELECT ' 2.50 ' AS t)\").fetchall())\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYSPARK_PYTHON"}
    environment["PATH"] = f"{tmp_path / 'bin'}:{environment['PATH']}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip().endswith("[(2.5,)]"), done.stderr

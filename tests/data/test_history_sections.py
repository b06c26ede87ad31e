"""Histories in sections: kinds of events that are told apart, in prepare and in requests of every form."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from equipoise.common.errors import UserError
from equipoise.configs.load import build_config
from equipoise.configs.schema import DataConfig, PromptConfig
from equipoise.data.manifest import Manifest
from equipoise.data.prepare.masked import is_prepared, mask_all_fields, mask_behaviour
from equipoise.data.prepare.slates import prepare
from equipoise.data.requests.renderer import PromptRenderer
from equipoise.serving.frames import RequestRows
from equipoise.serving.items import KnownItems
from equipoise.serving.limits import Limits
from equipoise.serving.omega import OperatingPoint
from equipoise.serving.prompt_parts import cut
from equipoise.serving.request_error import RequestError
from equipoise.serving.requests import RequestReader

Make = Callable[..., DataConfig]
SECTIONS = [
    {"kinds": ["purchase"], "label": "liked: ", "max_events": 2, "order": "frequent", "separator": " / "},
    {"kinds": ["view"], "label": "disliked: ", "max_events": 1, "name": "dislikes"},
]


def settings(history: Any) -> dict[str, Any]:
    return {
        "name": "run", "output": "run", "backbone": {"path": "x"}, "objectives": {"ctr": {}},
        "data": {"folder": "data", "source": "complete_journey", "history": history},
    }  # fmt: skip


def test_each_section_has_its_kinds_order_length_and_separator(rows: dict, make_config: Make) -> None:
    config = make_config(rows, history=SECTIONS, prompt=PromptConfig(prefix=["age {age}"]), profile=["age"])
    manifest = prepare(config)
    prefixes = pd.concat(map(pd.read_parquet, sorted(config.folder.glob("slates/*.parquet")))).set_index("request_id")
    assert prefixes.prefix.to_dict() == {
        "r1": "age 30-39, liked: cheese",
        "r2": "",
        "r3": "age 30-39, liked: cheese / bread, disliked: apples",
        "r4": "liked: apples",
        "r5": "age 30-39, liked: cheese / bread, disliked: apples",
    }
    assert Manifest.read(config.folder).history == config.model_dump(mode="json")["history"] == manifest.history
    masked = mask_all_fields(config)
    assert not is_prepared(masked, config)
    prepare(masked)
    assert is_prepared(masked, config) and not is_prepared(mask_behaviour(config), config)
    bare = pd.read_parquet(masked.folder / "slates" / "train-00000.parquet").prefix
    assert set(bare) == {""}


def test_a_single_section_stays_a_mapping(rows: dict, make_config: Make) -> None:
    config = make_config(rows, history={"max_events": 2})
    assert prepare(config).history["max_events"] == 2  # type: ignore[call-overload]
    other = make_config(rows, history=[{"max_events": 2}], folder=config.folder.with_name("other"))
    prepare(other)
    shards = [pd.read_parquet(c.folder / "slates" / "train-00000.parquet") for c in (config, other)]
    pd.testing.assert_frame_equal(*shards)


def test_a_kind_without_events_is_refused_with_those_that_there_are(rows: dict, make_config: Make) -> None:
    wrong = [*SECTIONS, {"kinds": ["like"], "label": "x "}]
    with pytest.raises(UserError, match=r"events.csv .*no event of kind 'like'.* \(there are purchase, view\)"):
        prepare(make_config(rows, history=wrong))
    with pytest.raises(UserError, match="no event of kind 'bought'"):
        prepare(make_config(rows, history={"kinds": ["bought"], "items": True, "max_events": 0}))
    for row in rows["events"]:
        row.pop("kind")
    with pytest.raises(UserError, match=r"has no column 'kind', which data\.history\.kinds reads"):
        prepare(make_config(rows, history=SECTIONS))


@pytest.mark.parametrize(
    ("history", "sentence"),
    [
        ([SECTIONS[0], SECTIONS[0]], "history has two sections 'liked'"),
        ([], "history is an empty list"),
        ([{"max_event": 3}], r"unknown key 'data\.history\.0\.max_event': did you mean 'max_events'"),
        ({"max_event": 3}, r"unknown key 'data\.history\.max_event': did you mean 'max_events'"),
    ],
)
def test_sections_that_cannot_be_are_refused(history: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build_config(settings(history), [], Path("run.yaml"))


def reader() -> RequestReader:
    config = build_config(settings(SECTIONS), [], Path("run.yaml")).data
    items = KnownItems({"i": "tea"}, {"i": "tea"}, {})
    prompt = PromptConfig(prefix=["age {age}"])
    return RequestReader(prompt, config.history, items, OperatingPoint({}, {}), Limits())


HISTORY = {"dislikes": ["soap", "glue"], "liked": ["tea", {"item_id": "i"}, "jam", "rye"]}
TEXT = "age 30, liked: tea / tea, disliked: soap"


def test_requests_name_sections() -> None:
    request = {"user": {"age": 30}, "history": HISTORY, "candidates": ["i"]}
    read = reader().read(request)
    assert read.prefix == TEXT
    assert reader().read({**request, "history": {"liked": None}}).prefix == "age 30"
    for history, field, sentence in (
        (["tea"], "history", "has several sections: give an object with liked, dislikes"),
        ({"loved": ["tea"]}, "history", "has no section 'loved': use liked, dislikes"),
        ({"liked": "tea"}, "history.liked", "give a list"),
        ({"liked": ["tea", 3]}, r"history.liked\[1\]", "give a title"),
    ):
        with pytest.raises(RequestError, match=rf"{field}.*{sentence}"):
            reader().read({**request, "history": history})
    for whole in (request, {"prefix": TEXT, "candidates": ["i"]}):  # parts of fields, and of a ready text
        parts = cut(reader(), whole, reader().read(whole))
        assert [(p.text, p.section) for p in parts.shopper] == [("age 30", 0), ("tea", 0), ("tea", 0), ("soap", 1)]
        assert parts.without(0, {1}).prefix == "age 30, liked: tea, disliked: soap"
        assert parts.without(0, {1, 2}).prefix == "age 30, disliked: soap"
        assert parts.without(0, {3}).prefix == "age 30, liked: tea / tea"


def test_tables_hold_sections_as_objects(tmp_path: Path) -> None:
    maker = RequestRows(reader(), ["user_id", "age", "history", "item_id"], per_candidate=True)
    history = {"liked": ["tea", None, "jam"], "dislikes": None}
    rows = [{"user_id": "u", "age": 30, "history": history, "item_id": "i"}]
    assert reader().read(maker.request(rows)).prefix == "age 30, liked: tea / jam"
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"history": HISTORY | {"liked": ["tea"]}}) + "\n")
    with duckdb.connect() as con:
        row = con.sql(f"SELECT * FROM read_json('{path}')").to_arrow_table()
    pq.write_table(row, tmp_path / "rows.parquet")
    found = pq.read_table(tmp_path / "rows.parquet").column("history").to_pylist()[0]
    renderer = PromptRenderer(PromptConfig(), reader().sections)
    assert pa.types.is_struct(row.schema.field("history").type)
    assert renderer.prefix({}, renderer.by_section(found)) == "liked: tea, disliked: soap"

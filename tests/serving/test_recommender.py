"""The library call on a tiny export."""

import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from equipoise.common.errors import UserError
from equipoise.data.batches import Slate, build_batch
from equipoise.modeling.run_model import load_run_model
from equipoise.serving.recommender import Limits, Recommender, RequestError
from tests.export_record import write_record

ROOT = Path(__file__).resolve().parents[2]
USER = {"age": "40"}


@pytest.fixture(scope="module")
def recommender(tiny_export: Callable[..., Any]) -> Recommender:
    return Recommender.load(tiny_export("bert").folder)


def close(found: Any, expected: Any) -> None:
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_what_an_export_says(recommender: Recommender) -> None:
    assert recommender.name == "tiny"
    assert recommender.pointwise == ("ctr", "cvr")
    assert recommender.listwise == ("diversity", "fairness")
    assert recommender.operating_point == {"diversity": 0.0, "fairness": 0.0}
    assert recommender.bounds == {"diversity": (0.0, 5.0), "fairness": (0.0, 5.0)}
    assert recommender.limits == Limits(candidates=512)
    assert recommender.fields == {
        "user": ["age"],
        "item": ["title", "category"],
        "context": ["seen_before"],
        "features": [],
    }


def test_examples_are_the_test_requests_with_their_labels(recommender: Recommender, tiny_export: Any) -> None:
    import pyarrow.parquet as pq

    rows = {row["request_id"]: row for row in pq.read_table(tiny_export("bert").slates).to_pylist()}
    assert 0 < len(recommender.examples) <= 20
    for example in recommender.examples:
        row = rows[example["request_id"]]
        assert example["prefix"] == row["prefix"]
        assert example["clicked"] == [place for place, click in enumerate(row["click"]) if click]
        assert example["converted"] == [place for place, bought in enumerate(row["conversion"]) if bought]
        assert f"{len(row['item'])} candidates, {sum(row['click'])} clicked" in example["name"]
        prepared = recommender.prepare(example)
        assert [c.context for c in prepared.request.candidates] == row["context"]
        assert len(recommender.score_prepared([prepared])[0].candidates) == len(row["item"])


@pytest.mark.parametrize(
    ("arch", "scope", "settings"),
    [("llama", "candidates", {}), ("llama", "all", {}), ("gpt2", "candidates", {}), ("bert", "all", {}),
     ("bert", "candidates", {"pooling": "mean"}), ("llama", "candidates", {"attention": "sdpa"})],
)  # fmt: skip
def test_scores_are_those_of_the_run(arch: str, scope: str, settings: dict, tiny_export: Any) -> None:
    export = tiny_export(arch, scope, **settings)
    found = Recommender.load(export.folder, cache_mb=1)
    model = load_run_model(export.config, export.config.output / "adapters")
    assert model.backbone.attention == ("sdpa" if settings.get("attention") else "split")
    prepared = [found.prepare(example) for example in found.examples]
    for _ in range(2):  # the second time from the cache, where there is one
        for request, ranking in zip(prepared, found.score_prepared(prepared), strict=True):
            nothing = np.zeros(len(request.slate.candidates), dtype=np.int64)
            slate = Slate(0, request.slate.prefix, request.slate.candidates, nothing, nothing, nothing)
            with torch.inference_mode():
                outputs = model.score(build_batch([slate], 256, 0).model_inputs())
            for name in ("ctr", "cvr"):
                close([scored.probabilities[name] for scored in ranking.given], outputs[name].sigmoid().tolist())
            for name in ("diversity", "fairness"):
                close([scored.deltas[name] for scored in ranking.given], outputs[name].tolist())
    assert (found.cache.hits > 0) == (not settings.get("attention"))


def test_rank_and_score(recommender: Recommender) -> None:
    candidates = [
        "i1",
        {"item_id": "i2", "context": {"seen_before": 3}},
        {"item": {"title": "Old cheese", "category": "cheese"}},
    ]
    omega = {"diversity": 2.0}
    ranking = recommender.rank(USER, candidates, history=["tea number 4"], omega=omega)
    assert ranking.omega == {"diversity": 2.0, "fairness": 0.0}
    assert [scored.rank for scored in ranking.candidates] == [1, 2, 3]
    best = max(ranking.given, key=lambda scored: scored.utility)
    assert ranking.candidates[0] == best  # the first place has nothing to be unlike
    assert {scored.position for scored in ranking.candidates} == {0, 1, 2}
    plain = recommender.rank(USER, candidates, history=["tea number 4"])
    given = plain.reranked({**recommender.operating_point, **omega}).given
    close([scored.utility for scored in given], [scored.utility for scored in ranking.given])
    assert [scored.rank for scored in given] == [scored.rank for scored in ranking.given]
    scored = recommender.score(USER, candidates, history=["tea number 4"])
    assert [one.position for one in scored.candidates] == [0, 1, 2]
    assert [one.item_id for one in scored.candidates] == ["i1", "i2", None]
    best = recommender.rank(USER, candidates, history=["tea number 4"], top=1)
    assert [one.position for one in best.candidates] == [plain.candidates[0].position]
    ready = "age 40, bought before: tea number 4"
    close(recommender.rank(ready, candidates).given[0].utility, plain.given[0].utility)


@pytest.mark.parametrize("make", [tuple, np.array, pd.Series], ids=["tuple", "array", "series"])
@pytest.mark.parametrize("history", [[], ["tea number 4"], ["tea number 4", "soap number 2"]])
def test_lists_of_numpy_and_pandas_are_lists(recommender: Recommender, make: Callable, history: list[str]) -> None:
    given, candidates = make(history), ["i1", "i2"]
    expected = recommender.score(USER, candidates, history=history)
    for found in (
        recommender.score(USER, make(candidates), history=given, recent=make(["i1"])),
        recommender.rank(USER, make(candidates), history={"bought before": given}).as_given(),
    ):
        close([one.utility for one in found.given], [one.utility for one in expected.given])
    explained = recommender.explain(USER, candidates, history=given, explain=make([1])).to_json()
    assert explained == recommender.explain(USER, candidates, history=history, explain=[1]).to_json()
    if not history:  # nothing that a ready prefix would have to hold
        close(recommender.score("age 40", candidates, history=given).given[0].utility, expected.given[0].utility)


def test_anonymous_users_and_new_items_have_scores(recommender: Recommender) -> None:
    for user in (None, {}, {"age": None}, ""):
        ranking = recommender.rank(user, [{"text": "something never seen"}, {"item": {"category": "soap"}}])
        assert all(np.isfinite(scored.utility) for scored in ranking.candidates)


def test_requests_do_not_depend_on_each_other(recommender: Recommender) -> None:
    prepared = [recommender.prepare(example) for example in recommender.examples]
    together = recommender.score_prepared(prepared)
    recommender.cache.clear()
    for request, ranking in zip(prepared, together, strict=True):
        alone = recommender.score_prepared([request])[0]
        close([one.utility for one in alone.given], [one.utility for one in ranking.given])
    assert recommender.score_prepared([]) == []


def test_no_cache_gives_the_same(recommender: Recommender, tiny_export: Any) -> None:
    off = Recommender.load(tiny_export("bert").folder, cache_mb=0)
    for example in recommender.examples[:3] * 2:
        pair = [each.score_prepared([each.prepare(example)])[0].given for each in (off, recommender)]
        close(*[[one.utility for one in given] for given in pair])
    assert (off.cache.hits, off.cache.bytes) == (0, 0)


def test_many_threads_prepare_at_once(recommender: Recommender) -> None:
    def request(number: int) -> dict[str, Any]:
        items = [{"text": f"tea {number} {place}", "context": f"seen {number}"} for place in range(8)]
        return {"user": {"age": number}, "candidates": items}

    alone = [recommender.prepare(request(number)) for number in range(60)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(recommender.prepare, map(request, range(60)))) == alone


def test_what_is_remembered_of_hostile_texts_is_bounded(recommender: Recommender) -> None:
    words = " ".join(f"w{number}" for number in range(800))
    recommender.prepare({"candidates": [{"text": words, "context": words}]})
    tokenizer = recommender._tokenizer.tokenizer
    longest = max(len(ids) for store in (tokenizer._items, tokenizer._contexts) for ids in store.values())
    assert longest == tokenizer.candidate_room + 1


def test_limits_may_be_set_anew(tiny_export: Any) -> None:
    small = Recommender.load(tiny_export("bert").folder)
    small = small.with_limits(replace(small.limits, candidates=2))
    with pytest.raises(RequestError, match="candidates has 3 entries: give at most 2"):
        small.rank(None, ["i1", "i2", "i3"])


def rows() -> list[dict[str, Any]]:
    return [
        {"request_id": "a", "user_id": 1, "age": "40", "history": ["tea number 4"], "item_id": ["i1", "i2", "i3"],
         "seen_before": [1, None, 2]},
        {"request_id": "b", "user_id": 2, "age": None, "history": None, "item_id": ["i4", "i1"],
         "seen_before": None},
    ]  # fmt: skip


def long_rows() -> list[dict[str, Any]]:
    found = []
    for row in rows():
        for place, item in enumerate(row["item_id"]):
            seen = row["seen_before"][place] if row["seen_before"] else None
            found.append({**row, "item_id": item, "seen_before": seen})
    return [found[index] for index in (0, 3, 1, 4, 2)]  # rows of one request need not stand together


@pytest.mark.parametrize("make", [rows, long_rows])
def test_frames(make: Callable[[], list[dict]], recommender: Recommender) -> None:
    found = recommender.rank_frame(pd.DataFrame(make()), omega={"fairness": 1.0}, top=2)
    assert list(found.columns) == [
        "request_id", "user_id", "rank", "position", "item_id", "utility", "pctr", "pcvr", "relevance",
        "delta_diversity", "delta_fairness",
    ]  # fmt: skip
    assert found["request_id"].tolist() == ["a", "a", "b", "b"]
    assert found["user_id"].tolist() == ["1", "1", "2", "2"]
    assert found["rank"].tolist() == [1, 2, 1, 2]
    contexts = [{"item_id": f"i{n}", "context": {"seen_before": seen}} for n, seen in ((1, 1), (2, None), (3, 2))]
    one = recommender.rank(USER, contexts, history=["tea number 4"], omega={"fairness": 1.0}, top=2)
    other = recommender.rank(None, ["i4", "i1"], omega={"fairness": 1.0})
    expected = [*one.candidates, *other.candidates]
    assert found["item_id"].tolist() == [scored.item_id for scored in expected]
    close(found["utility"].tolist(), [scored.utility for scored in expected])
    close(found["pcvr"].tolist(), [scored.probabilities["cvr"] for scored in expected])
    close(found["delta_fairness"].tolist(), [scored.deltas["fairness"] for scored in expected])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda frame: frame.drop(columns="item_id"), "the frame has no column item_id"),
        (lambda frame: frame.assign(item_id="nothing"), r"request 'a': candidates\[0\]\.item_id is 'nothing'"),
        (lambda frame: frame.assign(age=[1, 2, 3, 4, 5]), "request 'a': age has several values"),
        (lambda frame: frame.assign(request_id=[None, *"abab"]), "has a row without request_id"),
        (lambda frame: frame.drop(columns=["request_id", "user_id"]), "neither request_id nor user_id"),
        (lambda frame: frame.assign(seen_before="often"), r"request 'a': candidates\[0\]\.context\.seen_before is"),
    ],
)
def test_frames_that_are_wrong(change: Callable, sentence: str, recommender: Recommender) -> None:
    with pytest.raises(RequestError, match=sentence):
        recommender.rank_frame(change(pd.DataFrame(long_rows())))


def test_lists_of_other_lengths(recommender: Recommender) -> None:
    frame = pd.DataFrame(rows()).assign(seen_before=[[1], [2, 3]])
    with pytest.raises(RequestError, match="request 'a': seen_before is no list with one value for each of the 3"):
        recommender.rank_frame(frame)


def test_an_empty_frame(recommender: Recommender) -> None:
    assert len(recommender.rank_frame(pd.DataFrame(rows()[:0], columns=list(rows()[0])))) == 0


@pytest.mark.parametrize("file", ["items.parquet", "examples.jsonl", "tokenizer/tokenizer.json"])
def test_a_file_that_is_missing(file: str, tiny_export: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_export("bert").folder, tmp_path / "export"))
    (folder / file).unlink()
    with pytest.raises(UserError):
        Recommender.load(folder)


def test_an_export_of_before(tiny_export: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_export("bert").folder, tmp_path / "export"))
    record = json.loads((folder / "serving.json").read_text())
    del record["catalogue"]
    write_record(folder, record)
    with pytest.raises(UserError, match="earlier version, without catalogue: export the run again"):
        Recommender.load(folder)


def test_wrong_arguments_of_load(tiny_export: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not an export"):
        Recommender.load(tmp_path)
    with pytest.raises(UserError, match="device 'nonsense' cannot be used"):
        Recommender.load(tiny_export("bert").folder, device="nonsense")
    with pytest.raises(UserError, match="cache_mb is -1"):
        Recommender.load(tiny_export("bert").folder, cache_mb=-1)


def test_the_code_of_the_docs_runs(tiny_export: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "recommender.md").read_text("utf-8"), re.DOTALL)
    assert len(blocks) >= 2
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / "demo").symlink_to(tiny_export("bert").folder)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec("\n".join(blocks), names)
    assert len(names["ranking"].candidates) == 2
    assert len(names["table"]) == 4

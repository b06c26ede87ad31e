"""A run with the objective recall, from training to the search of its export, as a user would."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from equipoise.launch.cli import main
from equipoise.serving.recommender import Recommender, RequestError
from tests.tiny_run import run_settings, write_config

pytestmark = pytest.mark.slow


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert not end.value.code


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a tiny run whose events are kept as items."""
    folder = tmp_path_factory.mktemp("recall")
    settings = run_settings(folder)
    settings["objectives"] = {"ctr": {}, "recall": {"shoppers": 8, "negatives": 6, "dimension": 16}}
    settings["data"]["history"] = {"items": True}
    settings["balancing"] = {"method": "weighted"}
    config = str(write_config(settings, folder / "config.yaml"))
    run("prepare", config)
    run("train", config)
    run("evaluate", str(folder / "run"))
    run("export", str(folder / "run"), str(folder / "export"))
    return folder / "export"


def test_evaluation_measures_recall_and_its_baselines(export: Path) -> None:
    report = json.loads((export.parent / "run" / "evaluation_test.json").read_text())["recall"]
    assert report["items"] == 24
    assert set(report["all"]) == {"ours", "popularity", "bought before", "co-visitation", "BM25"}
    for which in ("all", "new"):
        for found in report[which].values():
            assert found["recall200"] == 1.0  # 24 items are fewer than 200
    assert set(report["weights"]) == {"scale", "prior", "repeat"}


def test_search_is_the_formula_over_the_exported_vectors(export: Path) -> None:
    recommender = Recommender.load(export)
    found = recommender.recall({"age": "30"}, 24, history=["tea number 0"], bought={"i3": 2})
    folder = export / "recall" / "index"
    vectors, bias = np.load(folder / "vectors.npy"), np.load(folder / "bias.npy")
    weights = json.loads((folder / "index.json").read_text())["weights"]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    ids = pq.read_table(export / "items.parquet").column("item_id").to_pylist()
    assert sorted(found.item_ids) == sorted(ids)
    # Without the shopper's own terms, scores are scale times a cosine.
    own = {"i3": weights["repeat"] * np.log(3)}
    rest = [
        score - bias[ids.index(item)] - own.get(item, 0.0)
        for item, score in zip(found.item_ids, found.scores, strict=True)
    ]
    assert np.abs(rest).max() <= weights["scale"] * (1 + 1e-5)
    shopper, *_ = np.linalg.lstsq(vectors[[ids.index(i) for i in found.item_ids]], np.array(rest), rcond=None)
    np.testing.assert_allclose(np.linalg.norm(shopper), weights["scale"], rtol=1e-3)
    assert found.scores == sorted(found.scores, reverse=True)


def test_exported_adapter_gives_the_run_s_own_vectors(export: Path) -> None:
    from equipoise.configs.load import read_run_config
    from equipoise.data.slate_set import SlateSet
    from equipoise.evaluation.recall.recall_of_run import TrainedRecall
    from equipoise.modeling.run_model import load_run_model
    from equipoise.train.token_caches import find_tokens

    config = read_run_config(export.parent / "run", [])
    model = load_run_model(config, export.parent / "run" / "adapters")
    train = SlateSet(config.data.folder, "train", find_tokens(config)).tokens
    trained = TrainedRecall(model, "recall", train, 256, lambda *told: None)
    np.testing.assert_allclose(np.load(export / "recall" / "index" / "vectors.npy"), trained.items, atol=1e-5)
    recommender = Recommender.load(export)
    prefix = SlateSet(config.data.folder, "train", find_tokens(config)).rows[0]["prefix"]
    expected = trained.scores(trained.shoppers(train, np.array([0])), trained_history(train))[0]
    times = {f"{item}": int(count) for item, count in zip(train.bought[0], train.times[0], strict=True)}  # type: ignore[index]
    ids = pq.read_table(export / "items.parquet").column("item_id").to_pylist()
    found = recommender.recall(prefix, 24, bought={ids[int(item)]: count for item, count in times.items()})
    assert found.item_ids == [ids[place] for place in np.argsort(-expected, kind="stable")]
    np.testing.assert_allclose(found.scores, np.sort(expected)[::-1], rtol=1e-4)


def trained_history(train: Any) -> Any:
    from equipoise.evaluation.recall.recall_baselines import histories

    return histories([train.bought[0]], [train.times[0]], len(train.cache.items))


def test_command_writes_the_library_s_answers(export: Path, tmp_path: Path) -> None:
    shoppers = [{"user_id": "a", "age": "30", "bought": ["i3", "i7"]}, {"user_id": "b", "age": "40", "bought": []}]
    (tmp_path / "shoppers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shoppers))
    out = tmp_path / "found.parquet"
    options = ["--requests", str(tmp_path / "shoppers.jsonl"), "--out", str(out), "--top", "5", "--exclude-bought"]
    run("recall", str(export), *options)
    rows = pq.read_table(out).to_pylist()
    recommender = Recommender.load(export)
    for user in shoppers:
        mine = [row for row in rows if row["user_id"] == user["user_id"]]
        found = recommender.recall({"age": user["age"]}, 5, bought=user["bought"], exclude_bought=True)
        assert [row["item_id"] for row in mine] == found.item_ids
        assert not {"i3", "i7"} & {row["item_id"] for row in mine if row["user_id"] == "a"}


def test_catalogue_is_replaced(export: Path, tmp_path: Path) -> None:
    import shutil

    mine = tmp_path / "export"
    shutil.copytree(export, mine)
    before = Recommender.load(mine).recall({"age": "30"}, 24)
    items = [{"item_id": name, "title": f"title {name}", "category": "tea"} for name in ("new", "i3")]
    items += [{"item_id": "loud", "title": "tea number 1", "category": "tea", "log_popularity": 9.0}]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in items))
    run("index", str(mine), "--items", str(tmp_path / "items.jsonl"), "--faiss")
    after = Recommender.load(mine).recall({"age": "30"}, 24)
    assert sorted(after.item_ids) == ["i3", "loud", "new"] and len(before.item_ids) == 24
    assert after.item_ids[0] == "loud"
    bias = np.load(mine / "recall" / "index" / "bias.npy")
    assert bias[0] <= bias[1]  # a new item has the least popularity, a known one keeps its own


def test_export_without_recall_says_so(export: Path) -> None:
    recommender = Recommender.load(export)
    recommender.catalogue = None
    with pytest.raises(RequestError, match=r"train with objectives\.recall"):
        recommender.recall({"age": "30"})

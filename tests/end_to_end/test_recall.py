"""A run with the objective recall, from training to the search of its export, as a user would."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from equipoise.launch.cli import main
from equipoise.modeling.recall_sources import RecallSources
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
    settings["data"] |= {"comparison": {"item": "category"}, "rates": [{"of": "click", "by": "provider"}]}
    settings["data"]["features"] = [{"name": "category", "scale": "category"}]
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
    extra = {"its sources"} if report["vectors"] else set()
    assert set(report["all"]) == {"ours", "popularity", "bought before", "co-visitation", "union", "BM25"} | extra
    for which in ("all", "new"):
        for found in report[which].values():
            assert found["recall200"] == 1.0  # 24 items are fewer than 200
    assert set(report["weights"]) == {"scale", "prior", "repeat"}


def test_scores_are_the_sum_of_their_sources(export: Path) -> None:
    recommender = Recommender.load(export)
    found = recommender.recall({"age": "30"}, 24, history=["tea number 0"], bought={"i3": 2})
    folder = export / "recall" / "index"
    about = json.loads((folder / "index.json").read_text())
    bias = np.load(folder / "bias.npy")
    ids = pq.read_table(export / "items.parquet").column("item_id").to_pylist()
    assert sorted(found.item_ids) == sorted(ids)
    assert found.scores == sorted(found.scores, reverse=True)
    for item, score, parts in zip(found.item_ids, found.scores, found.sources, strict=True):
        assert sum(parts.values()) == pytest.approx(score, abs=1e-4)
        assert parts["popularity"] == pytest.approx(bias[ids.index(item)], rel=1e-6)
        assert ("bought" in parts) == (item == "i3")
        assert abs(parts.get("vectors", 0.0)) <= abs(about["weights"]["scale"]) * (1 + 1e-5)


def test_the_export_gives_the_run_s_own_scores(export: Path) -> None:
    from equipoise.configs.load import read_run_config
    from equipoise.data.slate_set import SlateSet
    from equipoise.modeling.adapter_store import adapters_hash
    from equipoise.modeling.run_model import load_run_model
    from equipoise.train.recall_fit import past
    from equipoise.train.recall_scores import TrainedRecall, keeps_vectors
    from equipoise.train.recall_sources import run_sources
    from equipoise.train.token_caches import find_tokens

    run_folder = export.parent / "run"
    config = read_run_config(run_folder, [])
    model = load_run_model(config, run_folder / "adapters")
    train = SlateSet(config.data.folder, "train", find_tokens(config)).tokens
    vectors, sources = keeps_vectors(run_folder, adapters_hash(run_folder / "adapters")), run_sources(run_folder)
    assert sources is not None
    trained = TrainedRecall(model, "recall", train, 256, sources, vectors)
    held = np.load(export / "recall" / "index" / "vectors.npy")
    own = json.loads((export / "recall" / "index" / "index.json").read_text())["own_dimension"]
    assert own == (16 if vectors else 0)
    np.testing.assert_allclose(held[:, own:], sources.of_item, atol=1e-6)
    if vectors:
        np.testing.assert_allclose(held[:, :own], trained.items, atol=1e-5)
    recommender = Recommender.load(export)
    prefix = SlateSet(config.data.folder, "train", find_tokens(config)).rows[0]["prefix"]
    bought, times = past(train, 0)
    expected = trained.scores(trained.shoppers(train, np.array([0])), [bought], [times])[0]
    ids = pq.read_table(export / "items.parquet").column("item_id").to_pylist()
    given = {ids[item]: int(count) for item, count in zip(bought.tolist(), times, strict=True)}
    found = recommender.recall(prefix, 24, bought=given)
    np.testing.assert_allclose(found.scores, np.sort(expected)[::-1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose([expected[ids.index(item)] for item in found.item_ids], found.scores, atol=1e-4)


def test_the_choice_of_vectors_holds_for_its_adapters_alone(export: Path, tmp_path: Path) -> None:
    from equipoise.train.recall_scores import keeps_vectors, write_choice

    choice = json.loads((export.parent / "run" / "recall" / "vectors.json").read_text())
    assert choice["kept"] == (choice["higher_in_resamples"] >= 0.95) and choice["shoppers"] > 0
    assert not choice["kept"] or choice["with"] > choice["without"]
    (tmp_path / "recall").mkdir()
    assert keeps_vectors(tmp_path, "a")
    write_choice(tmp_path, choice | {"kept": False}, "a")
    assert not keeps_vectors(tmp_path, "a") and keeps_vectors(tmp_path, "other")


def test_quotas_are_filled_by_the_best_of_their_kind(export: Path) -> None:
    recommender = Recommender.load(export)
    every = [f"i{number}" for number in range(24)]
    bought = dict.fromkeys(every[:20], 9)
    plain = recommender.recall({"age": "30"}, 6, bought=bought)
    whole = recommender.recall({"age": "30"}, 24, bought=bought)
    never = [item for item in whole.item_ids if item not in bought]
    found = recommender.recall({"age": "30"}, 6, bought=bought, quota={"never_bought": 3})
    assert sum(item not in bought for item in plain.item_ids) < 3
    assert {item for item in found.item_ids if item not in bought} == set(never[:3])
    assert [item for item in found.item_ids if item in bought] == [i for i in whole.item_ids if i in bought][:3]
    assert found.scores == sorted(found.scores, reverse=True)
    new = recommender.catalogue.new_items  # type: ignore[union-attr]
    names = [recommender.catalogue.item_ids[item] for item in new]  # type: ignore[union-attr]
    if names:  # one that this shopper has bought, on the other side, is not new to it
        told = recommender.recall({"age": "30"}, 6, bought=bought | {names[0]: 1}, quota={"new": 6, "never_bought": 6})
        assert names[0] not in told.item_ids and set(names[1:7]) <= set(told.item_ids)
    with pytest.raises(RequestError, match="whole number from 0 to top, 6"):
        recommender.recall({"age": "30"}, 6, quota={"never_bought": 7})
    with pytest.raises(RequestError, match="quota"):
        recommender.recall({"age": "30"}, 6, quota={"newest": 1})


def test_purchases_are_counted_again_without_training(export: Path, tmp_path: Path) -> None:
    import shutil

    mine = tmp_path / "export"
    shutil.copytree(export, mine)
    rows = [
        {"request_id": f"r{number}", "item_id": item, "timestamp": f"2026-01-0{1 + number % 9} 10:00:00"}
        for number in range(9)
        for item in ("i5", "i7", "gone")
    ]
    (tmp_path / "purchases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("index", str(mine), "--purchases", str(tmp_path / "purchases.jsonl"))
    before, after = Recommender.load(export), Recommender.load(mine)
    assert after.catalogue is not None and after.catalogue.sources is not None and before.catalogue is not None
    ids = after.catalogue.item_ids
    assert sorted(ids[item] for item in np.flatnonzero(after.catalogue.sources.counts.bought)) == ["i5", "i7"]
    assert before.catalogue.sources is not None
    assert after.catalogue.sources.weights == before.catalogue.sources.weights
    new = after.recall({"age": "30"}, 8, quota={"new": 8})
    assert not {"i5", "i7"} & set(new.item_ids)


@pytest.mark.parametrize(
    ("option", "row", "words"),
    [
        ("--purchases", {"request_id": 1, "item_id": "gone", "timestamp": "2026-01-01"}, "no item of the catalogue"),
        ("--purchases", {"request_id": 1, "item_id": "i3", "timestamp": "last May"}, "write them as ISO 8601"),
        ("--purchases", {"request_id": 1, "item_id": "i3", "timestamp": 1767225600}, "write them as ISO 8601"),
        ("--purchases", {"request_id": None, "item_id": "i3", "timestamp": "2026-01-01"}, "without request_id"),
        ("--items", {"item_id": "i3", "title": "tea", "log_popularity": "high"}, "something else than numbers"),
        ("--items", {"item_id": "i3", "title": "tea", "log_popularity": "nan"}, "not finite"),
    ],
)
def test_tables_that_cannot_be_read_change_nothing(
    export: Path, tmp_path: Path, option: str, row: dict, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    held = (export / "recall" / "index" / "bias.npy").read_bytes()
    (tmp_path / "table.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(SystemExit) as end:
        main(["index", str(export), option, str(tmp_path / "table.jsonl")])
    assert end.value.code == 2 and words in " ".join(capsys.readouterr().err.split())
    assert (export / "recall" / "index" / "bias.npy").read_bytes() == held


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
    items += [{"item_id": "loud", "title": "tea number 1", "category": "tea", "log_popularity": 99.0}]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in items))
    run("index", str(mine), "--items", str(tmp_path / "items.jsonl"), "--faiss")
    after = Recommender.load(mine).recall({"age": "30"}, 24)
    assert sorted(after.item_ids) == ["i3", "loud", "new"] and len(before.item_ids) == 24
    assert after.item_ids[0] == "loud"
    held, was = (RecallSources.read(folder / "recall" / "index" / "sources").counts for folder in (mine, export))
    known = Recommender.load(export).catalogue
    assert known is not None
    place = known.numbers["i3"]
    assert held.popularity[0].tolist() == [was.popularity[0].min(), was.popularity[0, place], 99.0]
    assert held.bought.tolist() == [False, was.bought[place], False]


def test_a_new_catalogue_keeps_what_the_export_holds_of_its_items(export: Path, tmp_path: Path) -> None:
    import shutil

    mine, before = tmp_path / "export", pq.read_table(export / "items.parquet")
    assert set(before.column_names) == {"item_id", "text", "title", "category", "key_provider", "thing"}
    shutil.copytree(export, mine)
    items = [{"item_id": row["item_id"], "title": f"another {row['title']}"} for row in before.to_pylist()]
    items[3] |= {"category": "soap", "provider": "new one", "log_popularity": 5.0}
    items = [{"category": None, "provider": None, "log_popularity": None} | row for row in items]
    names = ("item_id", "title", "log_popularity")
    (tmp_path / "some.jsonl").write_text("".join(json.dumps({n: row[n] for n in names}) + "\n" for row in items))
    run("index", str(mine), "--items", str(tmp_path / "some.jsonl"))
    after = pq.read_table(mine / "items.parquet")
    for name in ("category", "key_provider", "thing"):  # of which the file says nothing
        assert after.column(name).to_pylist() == before.column(name).to_pylist()
    sources = [RecallSources.read(folder / "recall" / "index" / "sources") for folder in (mine, export)]
    assert sources[0].counts.popularity[0, 3] == 5.0 != sources[1].counts.popularity[0, 3]
    assert not np.allclose(sources[0].alike.toarray(), sources[1].alike.toarray())  # other titles
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in items))
    run("index", str(mine), "--items", str(tmp_path / "all.jsonl"))
    changed = pq.read_table(mine / "items.parquet").to_pylist()
    assert (changed[3]["category"], changed[3]["key_provider"], changed[3]["thing"]) == ("soap", "new one", "soap")
    assert (changed[4]["category"], changed[4]["key_provider"], changed[4]["thing"]) == (None, None, "")
    assert Recommender.load(mine).rank({"age": "30"}, [{"item_id": "i3"}, {"item_id": "i4"}]).given


def test_what_training_added_is_left_out_with_the_vectors(export: Path, tmp_path: Path) -> None:
    from equipoise.configs.load import read_run_config
    from equipoise.data.slate_set import SlateSet
    from equipoise.modeling.run_model import load_run_model
    from equipoise.train.recall_scores import TrainedRecall
    from equipoise.train.recall_sources import run_sources
    from equipoise.train.token_caches import find_tokens

    config = read_run_config(export.parent / "run", [])
    model = load_run_model(config, export.parent / "run" / "adapters")
    train = SlateSet(config.data.folder, "train", find_tokens(config)).tokens
    sources = run_sources(export.parent / "run")
    assert sources is not None and any(TrainedRecall(model, "recall", train, 256, sources).weights.values())
    alone = TrainedRecall(model, "recall", train, 256, sources, vectors=False)
    bought, times = np.array([3, 7]), np.array([1, 4])
    np.testing.assert_allclose(
        alone.scores(np.empty((1, 0)), [bought], [times])[0], sources.scores(bought, times), rtol=1e-6
    )


def test_export_without_recall_says_so(export: Path) -> None:
    recommender = Recommender.load(export)
    recommender.catalogue = None
    with pytest.raises(RequestError, match=r"train with objectives\.recall"):
        recommender.recall({"age": "30"})

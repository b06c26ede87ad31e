import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from equipoise.common.errors import UserError
from equipoise.data.slate_set import SlateSet
from equipoise.evaluation.evaluate_run import evaluate_run as evaluate
from equipoise.export import golden_check
from equipoise.export.write import export_run
from equipoise.scoring.options import ScoreOptions
from equipoise.scoring.score_run import score_run as score
from equipoise.serving.recommender import Recommender
from equipoise.train.job import train
from equipoise.train.token_caches import make_tokens
from tests.card_code import run_python
from tests.export_record import write_record


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "scope", "formats"),
    [("bert", "candidates", "onnx"), ("llama", "all", "merged"), ("llama", "candidates", "peft")],
)
def test_every_format_carries_the_features(priced_run: Callable, arch: str, scope: str, formats: str) -> None:
    folder = priced_run(arch, scope, formats).export  # the golden check without this project has passed
    record = json.loads((folder / "serving.json").read_text())
    assert (
        list(record["features"]) == ["price", "cost", "attitude", "bought", "item_id", "tier"]
        and record["features"]["price"]["std"] > 0
    )
    scale = record["features"]["bought"]
    assert (scale["scale"], scale["least"], scale["rule"].split(";")[0]) == (
        "log1p", 0.0, "z = (log(1 + value) - mean) / std"
    )  # fmt: skip
    assert record["objectives"]["ctr"]["form"] == "features"
    assert run_python(folder) == ["ctr", "diversity", *(["ctr"] if scope == "candidates" else [])]
    assert list(scale["mix"]) == ["price", "cost", "bought"] and len(record["features"]["attitude"]["values"]) == 5
    head = load_file(folder / "ctr" / "head.safetensors")
    assert {"response.enter.weight", "score.weight"} <= set(head) and head["response.cross.weight"].shape == (4, 8)
    golden = [json.loads(line)["features"] for line in (folder / "golden.jsonl").read_text().splitlines()]
    assert all(values["price"] > 0 for values in golden) and {0.0} < {values["bought"] for values in golden}
    why = record["vllm"]["ctr"]["why_not"]
    if scope == "all":
        assert (
            why
            == "the heads read features (price, cost, bought, attitude, tier, item_id), which no stock classifier has"
        )
    if formats == "onnx":
        assert "features" in record["formats"]["onnx"]["inputs"]


def test_the_golden_check_sees_a_wrong_response_and_a_wrong_scale(
    priced_run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "export"
    shutil.copytree(priced_run("llama").export, folder)
    monkeypatch.syspath_prepend(folder)  # for check_formats, which the check finds beside itself
    assert (folder / "check_golden.py").read_bytes() == Path(golden_check.__file__).read_bytes()
    head = load_file(folder / "cvr" / "head.safetensors")
    save_file({**head, "response.out.bias": head["response.out.bias"] + 0.5}, folder / "cvr" / "head.safetensors")
    with pytest.raises(SystemExit, match=r"head\.safetensors is not the file that was exported"):
        golden_check.main(folder)
    record = json.loads((folder / "serving.json").read_text())
    del record["files"]  # so that the scores alone can tell
    write_record(folder, record)
    assert golden_check.main(folder) == 1 and "FAILED" in capsys.readouterr().out
    save_file(head, folder / "cvr" / "head.safetensors")
    assert golden_check.main(folder) == 0
    for wrong in (
        {"price": {"mean": record["features"]["price"]["mean"] + 0.3}},
        {"cost": {"scale": "log1p"}},
        {"tier": {"shares": [0.1, 0.2, 0.7]}},
    ):
        features = {name: {**scale, **wrong.get(name, {})} for name, scale in record["features"].items()}
        write_record(folder, {**record, "features": features})
        assert golden_check.main(folder) == 1


def test_score_and_the_recommender_give_the_same_for_prepared_and_raw_requests(
    priced_run: Callable, tmp_path: Path
) -> None:
    run = priced_run("llama")
    prepared = run.config.data.folder / "slates" / "test-00000.parquet"
    score(run.config.output, prepared, tmp_path / "scores", ScoreOptions())
    found = pd.read_parquet(sorted((tmp_path / "scores").glob("*.parquet")))
    recommender = Recommender.load(run.export)
    ids = pd.read_parquet(run.config.data.folder / "items.parquet").item_id
    slate = pd.read_parquet(prepared).iloc[0]
    names = [ids[number] for number in slate["item"]]
    candidates = [
        {"item_id": name, "context": {"price": float(price), "bought": int(bought)}}
        for name, price, bought in zip(names, slate.feature_price, slate.feature_bought, strict=True)
    ]
    kind = {"features": {"attitude": slate.feature_attitude[0]}}  # a ready prefix has no fields to read it from
    told = [{**candidate, **kind} for candidate in candidates]
    expected = [scored.probabilities["ctr"] for scored in recommender.score(slate.prefix, told).given]
    mine = found[found.request_id == slate.request_id].set_index("item_id").loc[names]
    np.testing.assert_allclose(mine.pctr, expected, rtol=1e-4)
    raw = pd.DataFrame(
        {
            "request_id": ["a", "b"], "item_id": [names, names],
            "attitude": ["bargain hunter"] * 2, "income": ["low"] * 2,
            "price": [[float(price) for price in slate.feature_price], None],
            "bought": [slate.feature_bought.tolist(), None],
        }
    )  # fmt: skip
    raw.to_parquet(tmp_path / "raw.parquet")
    score(run.config.output, tmp_path / "raw.parquet", tmp_path / "raw", ScoreOptions())
    found = pd.read_parquet(sorted((tmp_path / "raw").glob("*.parquet"))).set_index(["request_id", "item_id"]).pctr
    user = {"attitude": "bargain hunter", "income": "low"}
    for request, given in (("a", candidates), ("b", [{"item_id": name, "context": {}} for name in names])):
        expected = [scored.probabilities["ctr"] for scored in recommender.score(user, given).given]
        np.testing.assert_allclose(found[request].loc[names], expected, rtol=1e-4)
    raw["price"] = [[-1.0] * len(names)] * 2
    raw.to_parquet(tmp_path / "bad.parquet")
    with pytest.raises(UserError, match="request 'a' has a price of which -1 is not a number above 0"):
        score(run.config.output, tmp_path / "bad.parquet", tmp_path / "bad", ScoreOptions())
    raw.drop(columns="price").assign(bought=[[-1.0] * len(names)] * 2).to_parquet(tmp_path / "bad.parquet")
    with pytest.raises(UserError, match="request 'a' has a bought of which -1 is not a number of 0 or more"):
        score(run.config.output, tmp_path / "bad.parquet", tmp_path / "worse", ScoreOptions())


FURTHER = ({"name": "log_odds", "scale": "none"}, {"name": "seen", "scale": "log1p", "heads": False})


def test_any_number_is_a_feature_and_one_that_no_head_reads_is_kept_beside(
    priced_run: Callable, tmp_path: Path
) -> None:
    run = priced_run("llama", further=FURTHER)
    record = json.loads((run.export / "serving.json").read_text())["features"]
    assert record["log_odds"]["rule"].startswith("z = (value - mean) / std") and record["log_odds"]["least"] < 0
    assert (record["seen"]["heads"], record["seen"]["rule"]) == (False, "no column: no head reads it")
    assert list(record["log_odds"]["mix"]) == ["price", "cost", "bought", "log_odds"] and not record["seen"]["mix"]
    assert load_file(run.export / "ctr" / "head.safetensors")["response.out.bias"].shape == (4,)
    golden = [json.loads(line)["features"] for line in (run.export / "golden.jsonl").read_text().splitlines()]
    assert min(values["log_odds"] for values in golden) < 0 and {"seen"} < set(golden[0])
    recommender = Recommender.load(run.export)
    tokens = SlateSet(run.config.data.folder, "test", make_tokens(run.config)[0]).tokens
    prepared = run.config.data.folder / "slates" / "test-00000.parquet"
    slate = pd.read_parquet(prepared).iloc[0]
    for name in ("seen", "log_odds"):
        np.testing.assert_array_equal(tokens.features[name][: len(slate["item"])], slate[f"feature_{name}"])
    ids = pd.read_parquet(run.config.data.folder / "items.parquet").item_id

    def scored(**changed: float) -> np.ndarray:
        names = [name for name in record if name not in ("attitude", "item_id", "tier")]
        candidates = [
            {
                "item_id": ids[item],
                "context": slate.context[index],
                "features": {
                    **{name: float(slate[f"feature_{name}"][index]) for name in names},
                    "attitude": slate.feature_attitude[index],
                    **changed,
                },
            }
            for index, item in enumerate(slate["item"])
        ]
        return np.array([one.probabilities["ctr"] for one in recommender.score(slate.prefix, candidates).given])

    score(run.config.output, prepared, tmp_path / "scores", ScoreOptions())
    found = pd.read_parquet(sorted((tmp_path / "scores").glob("*.parquet")))
    mine = found[found.request_id == slate.request_id].set_index("item_id").loc[[ids[n] for n in slate["item"]]]
    np.testing.assert_allclose(mine.pctr, scored(), rtol=1e-4)
    np.testing.assert_array_equal(scored(seen=3.0), scored())
    assert np.abs(scored(log_odds=-9.0) - scored()).max() > 1e-4


LEVELS = (
    {"name": "brand_id", "scale": "category", "interactions": False, "levels": 5000, "rate": 3.0},
    {"name": "seller", "scale": "category", "interactions": False, "hashed": 64},
)


@pytest.mark.parametrize(("arch", "formats"), [("llama", "peft"), pytest.param("bert", "onnx", marks=pytest.mark.slow)])
def test_levels_by_number_go_into_exports(priced_run: Callable, tmp_path: Path, arch: str, formats: str) -> None:
    run = priced_run(arch, formats=formats, further=LEVELS)  # the golden check without this project has passed
    record = json.loads((run.export / "serving.json").read_text())["features"]
    assert (record["seller"]["hashed"], record["seller"]["values"], record["brand_id"]["levels"]) == (64, [], 5000)
    assert record["seller"]["rule"].startswith("a column, behind all others: the index")
    head = load_file(run.export / "ctr" / "head.safetensors")
    tables = [tuple(head[f"response.indexed.{number}.weight"].shape) for number in range(2)]
    assert tables == [(len(record["brand_id"]["values"]), 1), (64, 1)]
    prepared = run.config.data.folder / "slates" / "test-00000.parquet"
    slate = pd.read_parquet(prepared).iloc[0]
    ids = pd.read_parquet(run.config.data.folder / "items.parquet").item_id
    names = [ids[number] for number in slate["item"]]
    recommender = Recommender.load(run.export)

    def features(position: int) -> dict:
        values = {key: slate[f"feature_{key}"][position] for key in record}
        return {key: value.item() if isinstance(value, np.generic) else value for key, value in values.items()}

    def scored(**changed: str) -> np.ndarray:
        candidates = [
            {"item_id": name, "context": slate.context[n], "features": features(n) | changed}
            for n, name in enumerate(names)
        ]
        return np.array([one.probabilities["ctr"] for one in recommender.score(slate.prefix, candidates).given])

    score(run.config.output, prepared, tmp_path / "scores", ScoreOptions())
    found = pd.read_parquet(sorted((tmp_path / "scores").glob("*.parquet")))
    mine = found[found.request_id == slate.request_id].set_index("item_id").loc[names]
    np.testing.assert_allclose(mine.pctr, scored(), rtol=1e-4)
    assert np.abs(mine.pctr.to_numpy() - scored(seller="never seen")).max() > 1e-4
    assert np.abs(mine.pctr.to_numpy() - scored(brand_id="never seen")).max() > 1e-4


@pytest.mark.slow
def test_a_run_with_features_trains_evaluates_and_exports(priced_run: Callable, tmp_path: Path) -> None:
    config = priced_run("bert", "candidates", "onnx").config.model_copy(update={"output": tmp_path / "run"})
    summary = train(config)
    assert summary is not None and all(change > 0 for change in summary["largest_change"].values())
    tensors = load_file(tmp_path / "run" / "adapters" / "adapters.safetensors")
    assert tensors["heads.ctr.response.out.weight"].abs().max() > 0
    evaluate(tmp_path / "run", "test", [])
    export_run(tmp_path / "run", tmp_path / "export", golden=3)
    assert Recommender.load(tmp_path / "export").price({}, ["i1"], prices=[2, 3]).candidates[0].price in (2.0, 3.0)


def test_data_prepared_without_the_features_are_refused(priced_run: Callable, tmp_path: Path) -> None:
    config = priced_run("llama").config
    rest = (
        r"attitude \(category\), bought \(log1p\), item_id \(category, interactions: false\), tier \(category\) there"
    )
    unlike = ((["price"], f"cost, {rest}, none other here"), (["price", "cost", "bought"], f"{rest}, bought here"))
    for features, found in unlike:
        data = type(config.data).model_validate({**config.data.model_dump(), "features": features})
        with pytest.raises(UserError, match="with other data.features than the config: " + found):
            train(config.model_copy(update={"output": tmp_path / str(len(features)), "data": data}))

"""`equipoise front` on a tiny run: it scores once, tells the same twice, is carried into exports, refuses nonsense."""

import csv
import importlib.util
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import equipoise.evaluation.split_scores
from benchmarks.random_run import write_random_run
from equipoise.common.errors import UserError
from equipoise.configs.load import load_config
from equipoise.configs.schema import RunConfig
from equipoise.data.prepare.slates import prepare
from equipoise.evaluation.evaluate_run import evaluate_run as evaluate
from equipoise.evaluation.front.front_of_run import make_plan
from equipoise.evaluation.front.front_of_run import measure_front as front
from equipoise.evaluation.metrics.list_metrics import RankingMetrics, utility
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.evaluation.options import FrontOptions
from equipoise.export.check_process import run_check
from equipoise.export.operating_point import read_operating_point
from equipoise.export.write import export_run
from equipoise.launch.cli import app
from equipoise.serving.recommender import Recommender
from tests.wandb_files import whole_records

pytestmark = pytest.mark.slow
THREE = FrontOptions(
    omegas="diversity=0,1,2,fairness=0,1,2",
    axes="ndcg,cvr,fairness",
    weights="ctr=0.2,cvr=0.8",
    where="ndcg>=80% and exposure_ratio>=0",
    maximize="cvr",
    all_choices=True,
    choose="weights",
    cutoff=3,  # slates have 8 candidates: within 10 every order shows the same
    resamples=30,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run on the tiny tables, whose impressions have a price."""
    spec = importlib.util.spec_from_file_location("tiny_run", Path(__file__).parents[1] / "tiny_run.py")
    assert spec is not None and spec.loader is not None
    builders = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builders)
    folder = tmp_path_factory.mktemp("front")
    settings = builders.run_settings(folder)
    impressions = Path(settings["data"]["tables"]["impressions"])
    with impressions.open(newline="") as file:
        rows = [{**row, "price": 1 + number % 7} for number, row in enumerate(csv.DictReader(file))]
    with impressions.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    settings["data"]["fields"].append("price")
    config = load_config(builders.write_config(settings, folder / "config.yaml"))
    prepare(config.data)
    write_random_run(config)
    return config


@pytest.fixture
def run(finished: RunConfig, tmp_path: Path) -> Path:
    """A copy of the run, with the scores that earlier tests made."""
    copy = tmp_path / "run"
    shutil.copytree(finished.output, copy)
    return copy


@pytest.fixture(scope="module")
def fronted(finished: RunConfig) -> Path:
    """The run itself, after `equipoise front` with all three choices."""
    front(finished.output, THREE)
    return finished.output


@pytest.fixture(scope="module")
def exported(fronted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the run, made after `equipoise front`."""
    folder = tmp_path_factory.mktemp("export") / "export"
    export_run(fronted, folder, golden=3)
    return folder


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


def expected(table: ScoreTable, omega: dict[str, float]) -> dict[str, float]:
    found = RankingMetrics(table, [3], ["category"], "category", "provider")(utility(table, omega))
    found |= {"exposure_ratio@3": found["exposure@3"]["min_max"]}
    return {axis: found[f"{axis}@3"] for axis in ("ndcg", "ild", "coverage", "exposure_ratio")}


def test_everything_is_written(fronted: Path) -> None:
    record = read(fronted / "front.json")
    assert len(record["points"]) == 9 and record["points"][0]["omega"] == {"diversity": 0.0, "fairness": 0.0}
    assert record["axes"] == ["ndcg", "ndcg_conversion", "exposure_ratio"] and record["cutoff"] == 3
    assert record["valid"] == {"requests": 7, "rows": 56, "resamples": 30}
    assert len(record["front"]) > 1  # or the three choices are one
    assert record["front"] == [number for number, point in enumerate(record["points"]) if point["on_front"]]
    assert 0 < record["hypervolume"]["normalised"] <= 1
    assert record["hypervolume"]["from_zero"] >= record["hypervolume"]["from_zero_relevance_alone"] > 0
    table = ScoreTable.load(fronted / "scores_valid.parquet")
    for point in record["points"]:
        assert point["metrics"] == pytest.approx(point["metrics"] | expected(table, point["omega"]))
        for axis, (low, high) in point["intervals"].items():
            assert low <= high, axis
    assert set(record["choices"]) == {"knee", "weights", "constraint"} and record["chosen"] == "weights"
    assert imread(fronted / "front.png").std() > 0.05


def test_the_w_and_b_run_of_the_training_is_told(run: Path, fronted: Path, caplog: pytest.LogCaptureFixture) -> None:
    import wandb

    caplog.set_level("INFO", "equipoise")
    (run / "wandb.json").write_text(json.dumps({"id": "abc", "project": "p", "entity": None}))
    front(run, THREE, ["wandb.mode=offline"])
    (folder,) = (run / "wandb").glob("offline-run-*-abc")
    assert f"send the front with: wandb sync {folder}" in caplog.text
    (told,) = whole_records(folder)
    wandb.teardown()  # it would keep this run's folder for later tests
    (artifact,) = (each.artifact for each in told if each.WhichOneof("record_type") == "artifact")
    sizes = {entry.path: entry.size for entry in artifact.manifest.contents}
    assert artifact.type == "front" and sizes["front.json"] == (run / "front.json").stat().st_size


def test_a_front_without_a_choice_is_told_too(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    import wandb

    caplog.set_level("WARNING")
    (run / "operating_point.json").unlink(missing_ok=True)
    (run / "wandb.json").write_text(json.dumps({"id": "abc", "project": "p", "entity": None}))
    front(run, FrontOptions(omegas=THREE.omegas, resamples=0, test=False), ["wandb.mode=offline"])
    (folder,) = (run / "wandb").glob("offline-run-*-abc")
    (told,) = whole_records(folder)
    wandb.teardown()  # it would keep this run's folder for later tests
    (artifact,) = (each.artifact for each in told if each.WhichOneof("record_type") == "artifact")
    files = {entry.path for entry in artifact.manifest.contents}
    assert {"front.json", "front.png"} <= files and "operating_point.json" not in files
    assert "failed" not in caplog.text


def test_choices_are_measured_again_on_the_test_split(fronted: Path) -> None:
    table = ScoreTable.load(fronted / "scores_test.parquet")
    for choice in read(fronted / "front.json")["choices"].values():
        plain, chosen = expected(table, {}), expected(table, choice["omega"])
        for axis in plain:
            found = choice["test"][axis]
            assert found["value"] == pytest.approx(chosen[axis])
            assert found["relevance"] == pytest.approx(plain[axis])
            assert found["difference"] == pytest.approx(chosen[axis] - plain[axis])
            low, high = found["difference_interval"]
            assert low <= high
    constrained = read(fronted / "front.json")["choices"]["constraint"]["valid"]["ndcg"]
    assert constrained["value"] >= 0.8 * constrained["relevance"]


def test_again_scores_nothing_and_gives_the_same(fronted: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: Any, **options: Any) -> None:
        raise AssertionError("scored a second time")

    monkeypatch.setattr(equipoise.evaluation.split_scores, "score_slates", never)
    front(run, THREE)
    for name in ("front.json", "front.png", "operating_point.json"):
        assert (run / name).read_bytes() == (fronted / name).read_bytes(), name
    with pytest.raises(AssertionError, match="second time"):
        front(run, THREE, ["evaluate.max_requests=4"])
    with pytest.raises(AssertionError, match="second time"):
        evaluate(run, "test", [])  # which is asked to score


def test_scores_of_other_adapters_are_not_taken(run: Path, fronted: Path) -> None:
    before = read(run / "front.json")
    path = run / "adapters" / "adapters.safetensors"
    tensors = load_file(path)
    save_file({name: tensor + 0.3 * tensor.abs().mean() for name, tensor in tensors.items()}, path)
    with pytest.raises(UserError, match="other adapters than the run holds now"):
        export_run(run, run.parent / "export", golden=2)
    front(run, FrontOptions(omegas=THREE.omegas, resamples=0, test=False, knee=True))
    record = read(run / "front.json")
    assert record["chosen"] == "knee" and "test" not in record["choices"]["knee"]
    assert [point["metrics"] for point in record["points"]] != [point["metrics"] for point in before["points"]]


def test_scores_of_evaluate_are_taken(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("valid", "test"):
        (run / f"scores_{split}.parquet").unlink(missing_ok=True)
        evaluate(run, split, [])
    monkeypatch.setattr(equipoise.evaluation.split_scores, "score_slates", None)
    front(run, FrontOptions(resamples=5))
    assert len(read(run / "front.json")["points"]) == 13 * 17


def test_a_sample_of_the_validation_requests_is_stated(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    front(run, FrontOptions(resamples=5, requests=4))
    assert read(run / "front.json")["valid"]["requests"] == 4
    monkeypatch.setattr(equipoise.evaluation.split_scores, "score_slates", None)
    front(run, FrontOptions(resamples=5, requests=4))  # the scores of these requests, and all of test, are taken again
    assert read(run / "front.json")["valid"]["requests"] == 4


def test_export_carries_the_choice(fronted: Path, exported: Path) -> None:
    chosen = read(fronted / "front.json")["choices"]["weights"]
    assert any(chosen["omega"].values())  # or an export without a choice would look the same
    point = read(exported / "serving.json")["operating_point"]
    assert point["omega"] == chosen["omega"]
    assert point["bounds"] == {"diversity": [0.0, 2.0], "fairness": [0.0, 2.0]}
    assert "equipoise front" in point["note"] and "7 validation requests" in point["note"]
    assert point["utility"] == "u = r"  # lists are filled place after place by it
    assert point["note"] in (exported / "README.md").read_text("utf-8")


def test_front_writes_into_an_export_that_is_there(run: Path, exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "export"
    shutil.copytree(exported, copy)
    card, serving = (copy / "README.md").read_text("utf-8"), read(copy / "serving.json")
    front(run, FrontOptions(omegas="diversity=3,fairness=0.25", where="ild>=0", maximize="ild", export=copy))
    now = read(copy / "serving.json")
    assert now["operating_point"]["omega"] == read(run / "operating_point.json")["omega"]
    assert now["operating_point"]["bounds"] == {"diversity": [0.0, 3.0], "fairness": [0.0, 0.25]}
    changing = {"operating_point": None, "sha256": None, "files": None}
    assert {**now, **changing} == {**serving, **changing}
    differing = {name for name, value in now["files"].items() if serving["files"].get(name) != value}
    assert differing <= {"golden_lists.json", "request_schema.json"}
    changed = (copy / "README.md").read_text("utf-8")
    assert now["operating_point"]["note"] in changed and serving["operating_point"]["note"] not in changed
    headings = [line for line in card.splitlines() if line.startswith("## ")]
    assert [line for line in changed.splitlines() if line.startswith("## ")] == headings
    (differs,) = (line for line in card.splitlines() if line not in changed.splitlines())
    assert serving["operating_point"]["note"] in differs
    assert max(run_check(copy).values()) <= now["tolerance"]


def test_an_export_of_other_adapters_is_left_alone(run: Path, exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "export"
    shutil.copytree(exported, copy)
    head = copy / "fairness" / "slate_head.safetensors"
    save_file({name: tensor * 2 for name, tensor in load_file(head).items()}, head)
    before = (copy / "serving.json").read_bytes(), (run / "operating_point.json").read_bytes()
    with pytest.raises(UserError, match="'fairness' differs"):
        front(run, FrontOptions(export=copy, knee=True))
    with pytest.raises(UserError, match="is not an export"):
        front(run, FrontOptions(export=tmp_path / "nothing", knee=True))
    assert ((copy / "serving.json").read_bytes(), (run / "operating_point.json").read_bytes()) == before


def test_value_and_relevance_weights_are_measured_exported_and_served(run: Path, tmp_path: Path) -> None:
    options = FrontOptions(
        omegas="diversity=0,fairness=0",
        relevance="cvr=0,1,2",
        value="price=0,1,4",
        axes="ndcg,value",
        where="value>=0",
        maximize="value",
        cutoff=2,
        resamples=20,
    )
    front(run, options)
    record = read(run / "front.json")
    assert len(record["points"]) == 9
    assert {(p["relevance_weights"]["cvr"], p["value_exponents"]["price"]) for p in record["points"]} == {
        (cvr, price) for cvr in (0.0, 1.0, 2.0) for price in (0.0, 1.0, 4.0)
    }
    best = max(point["metrics"]["value"] for point in record["points"])
    chosen = record["choices"]["constraint"]
    assert chosen["valid"]["value"]["value"] == best
    written = read(run / "operating_point.json")
    assert written["value_exponents"] == chosen["value_exponents"]
    served = written["relevance_weights"] == {"cvr": 1.0} and written["value_exponents"] == {"price": 0.0}
    assert not served  # or the rest of this test shows nothing
    with pytest.MonkeyPatch.context() as patch:
        names = ("ctr", "cvr", "diversity", "fairness")
        patch.setattr("equipoise.export.write.run_check", lambda out: dict.fromkeys(names, 0.0))
        export_run(run, tmp_path / "export", golden=2)
    point = read(tmp_path / "export" / "serving.json")["operating_point"]
    assert point["value_exponents"] == written["value_exponents"]
    recommender = Recommender.load(tmp_path / "export")
    candidates = [{"item_id": "i0", "value": 2.0}, {"item_id": "i1", "value": 8.0}]
    ranking = recommender.rank(None, candidates)
    for scored in ranking.given:
        logs = {name: math.log(p) for name, p in scored.probabilities.items()}
        expected = logs["ctr"] + written["relevance_weights"]["cvr"] * logs["cvr"]
        expected += written["value_exponents"]["price"] * math.log(scored.value)
        assert scored.utility == pytest.approx(expected, abs=1e-6)
    with pytest.raises(UserError, match=r"candidates\[0\].value is missing: .*'price' in its context"):
        recommender.rank(None, ["i0"])
    told = [{"item_id": "i0", "context": {"price": 2.0}}, {"item_id": "i1", "context": {"price": 8.0}}]
    assert [scored.value for scored in recommender.rank(None, told).given] == [2.0, 8.0]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"omega": {"diversity": 1}}', '{"omega": {"d": "x"}, "bounds": {}}',
                                  '{"omega": {"d": NaN}, "bounds": {}, "note": "", "adapters": ""}'])  # fmt: skip
def test_a_broken_operating_point_is_refused(run: Path, text: str) -> None:
    (run / "operating_point.json").write_text(text)
    with pytest.raises(UserError, match="cannot be read as an operating point"):
        read_operating_point(run)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "ctr=1", "where": "ild>=0", "maximize": "ndcg"}, "--knee, --weights and --where are ways"),
        ({"weights": "ctr=1", "knee": True}, "--knee, --weights and --where are ways"),
        ({"export": Path("export")}, "--export writes a choice"),
        ({"confidence": 1.0}, "--confidence 1 is no share"),
        ({"where": "ild>=0"}, "belong together"),
        ({"maximize": "ndcg"}, "belong together"),
        ({"all_choices": True, "weights": "ctr=1"}, "--all-choices needs"),
        ({"choose": "knee"}, "--choose"),
        ({**vars(THREE), "choose": "dice"}, "--choose dice"),
        ({"omegas": "ctr=1"}, "--omegas names 'ctr'"),
        ({"relevance": "diversity=1"}, "--relevance names 'diversity'"),
        ({"value": "cost=1"}, "'cost', which is no field"),
        ({"value": "price=1,seen_before=1"}, "name one field"),
        ({"axes": "ndcg"}, "two or more different axes"),
        ({"axes": "ndcg,profit"}, "'profit' is not measured"),
        ({"axes": "ndcg,value"}, "'value' is not measured"),
        ({"cutoff": 0}, "--cutoff 0"),
        ({"points": 1}, "--points"),
        ({"resamples": -1}, "--resamples"),
        ({"omegas": "diversity=0,fairness=0"}, "pure relevance alone"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_before_scoring(
    finished: RunConfig, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError) as error:
        make_plan(finished, FrontOptions(**options))
    assert words in str(error.value)


def test_a_run_without_adjustments_needs_axes(finished: RunConfig) -> None:
    plain = finished.model_copy(
        update={"objectives": finished.objectives.model_copy(update={"diversity": None, "fairness": None})}
    )
    with pytest.raises(UserError, match="no list-wise objective"):
        make_plan(plain, FrontOptions())
    plan = make_plan(plain, FrontOptions(axes="ctr,cvr", relevance="cvr=0,1,2"))
    assert plan.axes == ("ndcg_click", "ndcg_conversion") and len(plan.grid.points()) == 3


def test_nothing_is_chosen_unless_it_is_asked_for(fronted: Path, run: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "equipoise")
    before = (run / "operating_point.json").read_bytes()
    front(run, FrontOptions(resamples=5))
    record = read(run / "front.json")
    assert record["chosen"] is None and record["choices"] == {}
    assert (run / "operating_point.json").read_bytes() == before and "stays as it was chosen before" in caplog.text
    (run / "operating_point.json").unlink()
    front(run, FrontOptions(resamples=5, test=False))
    assert "nothing is chosen, exports rank by pure relevance" in caplog.text
    assert not (run / "operating_point.json").exists()
    # Re-ranking stands beside the trade-offs, on both splits.
    volumes = record["rerankers"]["volumes"]
    assert set(volumes) == {"valid", "test"} and set(volumes["test"]) == {
        "ours", "MMR + boost", "max-sum + boost", "DPP + boost", "MMR + prices", "max-sum of p + boost of p",
    }  # fmt: skip
    assert record["rerankers"]["points"]["MMR + boost"][0]["rerank"] == "pure relevance"


def test_a_constraint_holds_with_confidence_and_its_test_is_told(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "equipoise")
    options = {"omegas": "diversity=0,1,2,fairness=0", "resamples": 40, "where": "ndcg>=60%", "maximize": "ild"}
    front(run, FrontOptions(**options))
    choice = read(run / "front.json")["choices"]["constraint"]
    assert choice["holds_in_resamples"] >= choice["confidence"] == 0.9
    (kept,) = choice["kept_on_test"]
    assert kept["kept"] == (kept["value"] >= kept["bound"]) and kept["value"] == choice["test"]["ndcg"]["value"]
    word = "kept" if kept["kept"] else "BROKEN"
    assert f"ndcg >= 60% is {word} on the test split: ndcg {kept['value']:.4f}" in caplog.text


def test_command_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    command = ["front", str(run), "--omegas", "diversity=0,1,fairness=0,1", "--resamples", "20"]
    done = CliRunner().invoke(app, [*command, "--where", "ild>=0", "--maximize", "ndcg"], catch_exceptions=False)
    assert done.exit_code == 0
    for words in ("4 trade-offs (full product) on 7 validation requests", "hypervolume", "chosen by constraint",
                  "largest ndcg where ild >= 0", "its 95 % interval", "operating_point.json"):  # fmt: skip
        assert words in done.stdout
    with pytest.raises(UserError, match="none of the 4 measured points fulfils ild >= 2"):
        CliRunner().invoke(app, [*command, "--where", "ild>=2", "--maximize", "ndcg"], catch_exceptions=False)


def test_an_unfinished_run_is_refused(finished: RunConfig, tmp_path: Path) -> None:
    shutil.copy(finished.output / "config.yaml", tmp_path / "config.yaml")
    with pytest.raises(UserError, match="holds no trained adapters"):
        front(tmp_path, FrontOptions())
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]

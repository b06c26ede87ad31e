"""The figures of the benchmark of quality: names, means over seeds, paired differences to trees, and configurations."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import quality, quality_runs
from benchmarks.quality import SETS, find_retail, settings_of
from benchmarks.quality_measure import Systems, quality_figures
from benchmarks.quality_variants import WHOLE
from equipoise.configs.schema import RunConfig
from equipoise.evaluation.metrics.pointwise import auc, uauc
from equipoise.evaluation.metrics.ranking import gains


@pytest.mark.parametrize("name", SETS)
def test_the_decoder_stands_in_the_place_of_the_encoder_alone(name: str, tmp_path: Path) -> None:
    file = tmp_path / "online_retail.csv" if name == "retail" else None
    ours, decoder = (settings_of(name, tmp_path, 17, False, file, variant) for variant in ("ours", "decoder"))
    other = {"backbone", "output"}
    assert decoder.model_dump(exclude=other) == ours.model_dump(exclude=other)
    assert decoder.backbone.layers == 20 and decoder.backbone.path.endswith(".gguf") and decoder.output != ours.output


def _systems() -> Systems:
    generator = np.random.default_rng(0)
    request = np.repeat(np.arange(80), 8)
    logit = generator.normal(-1, 1.5, 640)
    click = (generator.random(640) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    both = click * (generator.random(640) < 0.5)

    def seen(noise: float) -> np.ndarray:
        return 1 / (1 + np.exp(-logit - noise * generator.normal(size=640)))

    clicks = {"ours": [seen(0.1), seen(0.1)], "trees": [seen(2.0)], "popularity": [generator.random(640)]}
    scores = {"ctr": clicks, "ctcvr": {"ours": [seen(1.0)] * 2, "trees": [seen(1.0)]}}
    slices = {"never": np.arange(640) < 300, "unseen": np.zeros(640, bool)}
    labels = {"ctr": click, "ctcvr": both}
    return Systems(request, request // 4, labels, gains(click, both), scores, slices=slices)


def test_figures_of_systems_on_the_same_rows() -> None:
    systems = _systems()
    figures = quality_figures(systems, "retail_", resamples=60)
    found = {entry["name"].removeprefix("retail_"): entry["value"] for entry in figures}
    assert len(found) == len(figures)
    label, ours = systems.labels["ctr"], systems.scores["ctr"]["ours"]
    assert found["ours_ctr_auc"] == pytest.approx(np.mean([auc(label, score) for score in ours]))
    assert found["ours_ctr_uauc"] == pytest.approx(np.mean([uauc(label, score, systems.user) for score in ours]))
    assert found["ours_ctr_auc_diff"] == pytest.approx(found["ours_ctr_auc"] - found["trees_ctr_auc"])
    for name in ("ctr_auc", "ctr_gauc", "ctr_uauc", "ndcg10", "never_auc"):
        assert 0 < found[f"ours_{name}_low"] < found[f"ours_{name}_diff"] < found[f"ours_{name}_high"]
    assert found["ours_ctr_ne_high"] < 0
    assert {"ours_ctcvr_auc", "ours_ctcvr_gauc", "ours_ctcvr_ne", "ours_ctr_ece", "popularity_ctr_gauc"} <= set(found)
    assert not {"popularity_ctr_ne", "popularity_ctr_ece", "trees_ctr_auc_diff", "ours_unseen_auc"} & set(found)


@pytest.mark.parametrize("name", SETS)
def test_text_only_reads_no_columns(name: str, tmp_path: Path) -> None:
    file = tmp_path / "online_retail.csv" if name == "retail" else None
    ours, text = (settings_of(name, tmp_path, 18, True, file, variant) for variant in ("ours", "text_only"))
    assert ours.data.features and ours.evaluate.bought_before in ours.data.fields
    assert not text.data.features and text.data.comparison is None and text.seed == 18
    assert all(getattr(options, "prior", None) is None for options in text.objectives.active().values())
    assert ours.output != text.output and ours.data.folder != text.data.folder


@pytest.mark.parametrize("name", SETS)
def test_an_ablation_leaves_out_one_part_each(name: str, tmp_path: Path) -> None:
    file = tmp_path / "online_retail.csv" if name == "retail" else None
    found = {variant: settings_of(name, tmp_path, 17, False, file, variant) for variant in WHOLE}
    whole = found["ours"]
    assert whole.data.rates and whole.data.comparison is not None and whole.data.comparison.co_purchase
    assert not found["no_rates"].data.rates and found["no_comparison"].data.comparison is None
    compared = found["no_co_purchase"].data.comparison
    assert compared is not None and not compared.co_purchase
    assert all(getattr(options, "prior", None) is None for options in found["no_prior"].objectives.active().values())
    ids = [feature for feature in found["with_ids"].data.features if feature.name == "item_id"]
    assert len(ids) == 1 and ids[0].levels and "item_id" not in {feature.name for feature in whole.data.features}
    assert "{" not in "".join(found["no_text"].data.prompt.prefix + found["no_text"].data.prompt.item)
    assert all(section.max_events == 0 for section in found["no_text"].data.history_sections)
    folders = [config.data.folder for config in found.values()]
    assert len(set(folders)) == len(folders) - 2
    assert found["no_prior"].data.folder == found["apart"].data.folder == whole.data.folder
    assert found["apart"].backbone.trunk == "apart" and whole.backbone.trunk == "joint"


@pytest.mark.parametrize("requests", [None, 50])
def test_a_training_keeps_its_own_requests_whatever_is_scored(
    requests: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, list[int | None]] = {"trained": [], "scored": []}

    def trained(config: RunConfig) -> Path:
        asked["trained"].append(config.evaluate.max_requests)
        return tmp_path

    class Scores:
        adapters = tmp_path

        def __init__(self, config: RunConfig, run: Path) -> None:
            asked["scored"].append(config.evaluate.max_requests)

        def score(self, split: str, reuse: bool) -> str:
            return split

    (tmp_path / "summary.json").write_text('{"seconds": 3}')
    monkeypatch.setattr(quality_runs, "trained", trained)
    monkeypatch.setattr(quality_runs, "SplitScores", Scores)
    monkeypatch.setattr(quality_runs, "fitted_rivals", lambda *given: {"ctr": {}})
    own = settings_of("coupons", tmp_path, 17, False, None)
    found = quality_runs.score_variants(
        lambda variant, seed: settings_of("coupons", tmp_path, seed, False, None, variant), {"ours": 2}, requests
    )
    assert asked == {"trained": [own.evaluate.max_requests] * 2, "scored": [requests] * 2}
    assert found.tables == {"ours": ["test", "test"]} and found.seconds == {"ours": [3, 3]}


@pytest.mark.parametrize(
    ("more", "sentence"),
    [(["--ablation", "heads"], "--variants no_text: name some of ours, no_prior"), ([], "--variants needs --ablation")],
)
def test_variants_are_of_an_ablation(more: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit, match="2"):
        patch.setattr(sys, "argv", ["quality", "--json", "out.json", "--variants", "no_text", *more])
        quality.main()
    assert sentence in capsys.readouterr().err


def test_without_a_file_the_second_set_is_left_out(tmp_path: Path) -> None:
    assert find_retail(tmp_path) is None
    (tmp_path / "Online Retail.xlsx").touch()
    assert find_retail(tmp_path) == tmp_path / "Online Retail.xlsx"
    command = [sys.executable, "-m", "benchmarks.quality", "--only", "retail", "--json", str(tmp_path / "out.json")]
    done = subprocess.run([*command, "--retail", str(tmp_path / "none")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "holds no Online Retail" in done.stdout and (tmp_path / "out.json").is_file()

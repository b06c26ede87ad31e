"""A run survives what is done to it: refusals leave it as it was, exchanged inputs are told apart, nothing is lost."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from equipoise.common.errors import UserError
from equipoise.common.hashing import file_hash
from equipoise.common.process import INTERRUPTED
from equipoise.configs.load import build_config
from equipoise.evaluation.evaluate_run import evaluate_run
from equipoise.export.write import export_run
from equipoise.launch.cli import main
from equipoise.train.best_adapters import unfinished
from equipoise.train.job import train
from equipoise.train.loop import Loop
from equipoise.train.prepare_run import prepare_data
from tests.tiny_run import run_settings, write_config

Settings = dict[str, Any]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A run of ctr and cvr on a pretrained base, its data prepared, trained for four steps."""
    made = run_settings(tmp_path_factory.mktemp("survival"), save_every=2, max_steps=4)
    made |= {"objectives": {"ctr": {}, "cvr": {}}, "evaluate": {"max_requests": 4, "baselines": []}}
    base = made["backbone"]["path"]
    AutoModel.from_config(AutoConfig.from_pretrained(base)).save_pretrained(base)
    made["backbone"]["init"] = "pretrained"
    prepare_data(build_config(made, (), Path("config.yaml")))
    assert trained(made)
    return made


@pytest.fixture
def run(settings: Settings, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(settings["output"], tmp_path / "run"))


@pytest.fixture
def other_base(settings: Settings, tmp_path: Path) -> Path:
    """A base of the same shape with other weights."""
    base = Path(shutil.copytree(settings["backbone"]["path"], tmp_path / "other"))
    weights = load_file(base / "model.safetensors")
    save_file({name: t * 1.01 for name, t in weights.items()}, base / "model.safetensors", {"format": "pt"})
    return base


def trained(settings: Settings, *overrides: str, **options: bool) -> dict[str, Any] | None:
    return train(build_config(settings, overrides, Path("config.yaml")), **options)


def content(run: Path) -> dict[str, str]:
    files = (path for path in sorted(run.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(run)): file_hash(path) for path in files}


def test_exchanged_weights_are_refused_by_every_command(settings: Settings, run: Path, other_base: Path) -> None:
    there, before = f"backbone.path={other_base}", content(run)
    for act in (
        lambda: evaluate_run(run, "test", [there]),
        lambda: export_run(run, run.parent / "export", golden=2, overrides=[there]),
        lambda: trained(settings, f"output={run}", there, resume=True),
    ):
        with pytest.raises(UserError, match=r"was trained on another base model .*model\.safetensors"):
            act()
    assert content(run) == before and not (run.parent / "export").exists()


@pytest.mark.parametrize("setting", ["lora.alpha=64", "tokens.max_prefix=40"])
def test_settings_that_shape_scores_are_refused_when_evaluating(run: Path, setting: str) -> None:
    with pytest.raises(UserError, match=rf"was trained with {setting.partition('=')[0]}="):
        evaluate_run(run, "test", [setting])


@pytest.mark.parametrize(
    ("overrides", "options", "sentence"),
    [
        (("lora.alpha=64", "seed=99"), {"resume": True}, "cannot go on with other settings"),
        ((), {"resume": True, "overwrite": True}, "exclude each other"),
        (("backbone.split=9",), {"overwrite": True}, "split"),
        (("tokens.max_row=9000", "tokens.max_prefix=4000"), {"overwrite": True}, "positions"),
        (("backbone.path=/nowhere",), {"overwrite": True}, r"backbone\.path"),
        (("train.batch_size=4000",), {"overwrite": True}, "train split"),
    ],
)
def test_what_is_refused_leaves_the_run_as_it_was(
    settings: Settings, run: Path, overrides: tuple[str, ...], options: dict[str, bool], sentence: str
) -> None:
    before = content(run)
    with pytest.raises(UserError, match=sentence):
        trained(settings, f"output={run}", *overrides, **options)
    assert content(run) == before
    assert [path.name for path in run.parent.iterdir()] == ["run"]


def test_a_failure_before_the_first_step_brings_the_run_back(
    settings: Settings, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise UserError("the first batch does not fit")

    monkeypatch.setattr("equipoise.train.loop.Loop._micro_step", fail)
    before = content(run)
    with pytest.raises(UserError, match="the first batch"):
        trained(settings, f"output={run}", overwrite=True)
    assert content(run) == before
    with pytest.raises(UserError, match="the first batch"):
        trained(settings, f"output={run.parent / 'fresh'}")
    assert [path.name for path in run.parent.iterdir()] == ["run"]


def test_data_prepared_anew_are_refused(settings: Settings, run: Path) -> None:
    prepared = run.parent / "prepared"
    changed = {**settings, "data": {**settings["data"], "folder": str(prepared), "max_candidates": 6}}
    prepare_data(build_config(changed, (), Path("config.yaml")))
    before = content(run)
    with pytest.raises(UserError, match="was trained on other data than"):
        trained(settings, f"output={run}", f"data.folder={prepared}", resume=True)
    assert content(run) == before


def test_what_has_learned_nothing_is_saved_and_told(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One step: the towers of list-wise objectives cannot have moved, which must not lose the others."""
    run = tmp_path / "run"
    wider = {**settings, "objectives": {"ctr": {}, "cvr": {}, "diversity": {}}}
    summary = trained(wider, f"output={run}", "train.max_steps=1", "objectives.diversity.weight=1e-30")
    assert summary is not None and summary["unmoved"] and "unmoved after 1 steps" in caplog.text
    assert (run / "adapters" / "adapters.safetensors").is_file() and (run / "summary.json").is_file()


def test_a_stopped_training_has_an_exit_code_of_its_own(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config({**settings, "output": str(tmp_path / "run")}, tmp_path / "config.yaml")
    whole = Loop._micro_step

    def stop(loop: Loop, batch: Any, progress: Any, asked: bool) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return whole(loop, batch, progress, asked) or progress.step == 0

    monkeypatch.setattr(Loop, "_micro_step", stop)
    with pytest.raises(SystemExit) as ended:
        main(["train", str(config)])
    assert ended.value.code == INTERRUPTED == 75
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000001"]
    assert "was stopped after step 1" in str(unfinished(tmp_path / "run"))
    monkeypatch.undo()
    assert trained(settings, f"output={tmp_path / 'run'}", resume=True)
    assert unfinished(tmp_path / "run") is None

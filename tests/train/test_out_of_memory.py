"""Memory that runs out ends in one sentence with three settings, and exit code 2."""

from pathlib import Path
from typing import Any

import pytest
import torch

import equipoise.train.job
from equipoise.common.errors import UserError
from equipoise.configs.load import load_config
from equipoise.launch.cli import main
from equipoise.train.out_of_memory import advice, memory_advice
from tests.tiny_run import run_settings, write_config


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    return write_config(run_settings(tmp_path), tmp_path / "config.yaml")


def real_cpu_failure() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)  # more than any machine has


@pytest.mark.parametrize(
    ("overrides", "phase", "parts"),
    [
        ([], "training", ["train.batch_size=2 (now 4)", "backbone.checkpointing=true", "backbone.quantize=4bit"]),
        (
            ["train.batch_size=null", "train.max_tokens=3000", "backbone.checkpointing=true"],
            "training",
            ["train.max_tokens=1500 (now 3000)", "train.negatives=2 (now 4)", "backbone.quantize=4bit"],
        ),
        (
            ["backbone.checkpointing=true", "train.negatives=null", "backbone.quantize=4bit"],
            "training",
            ["train.batch_size=2", "tokens.max_candidate=12 (now 24)", "a smaller backbone.path"],
        ),
        (["train.batch_size=1"], "training", ["train.batch_size=1 (now 1)"]),
    ],
)
def test_names_three_settings_in_order(config_path: Path, overrides: list[str], phase: Any, parts: list[str]) -> None:
    sentence = advice(load_config(config_path, overrides), phase)
    places = [sentence.index(part) for part in [*parts, "`equipoise estimate"]]
    assert places == sorted(places)
    assert "\n" not in sentence


def test_scoring_names_its_own_settings(config_path: Path) -> None:
    sentence = advice(load_config(config_path), "scoring")
    assert "evaluate." in sentence
    assert "train." not in sentence


def test_real_cpu_allocation_becomes_advice(config_path: Path) -> None:
    refusal = pytest.raises(UserError, match=r"memory ran out in training: set train\.batch_size=2")
    with refusal, memory_advice(load_config(config_path), "training"):
        real_cpu_failure()


def test_other_errors_pass_untouched(config_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), memory_advice(load_config(config_path), "training"):
        raise RuntimeError("shapes differ")


def test_the_command_ends_with_the_sentence_and_code_2(
    config_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Step:
        def __init__(self, *arguments: Any) -> None:
            pass

        def run(self) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(equipoise.train.job, "Job", Step)
    monkeypatch.setattr(equipoise.train.job, "settle", lambda config, *_: (config, None))
    with pytest.raises(SystemExit) as stop:
        main(["train", str(config_path)])
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    for part in ("train.batch_size=2 (now 4)", "backbone.checkpointing=true", "backbone.quantize=4bit"):
        assert part in told

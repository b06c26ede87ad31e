"""The command line: quick, light, and one sentence for what the user can mend."""

import subprocess
import sys
from pathlib import Path

import pytest

from equipoise.configs.load import load_config
from equipoise.launch.cli import main

ROOT = Path(__file__).resolve().parents[2]


def run_and_list_modules(*arguments: str) -> tuple[str, set[str]]:
    """Run a command in a process of its own; what it printed, and every module that it imported."""
    code = (
        f"import sys; from equipoise.launch.cli import main\ntry: main({list(arguments)!r})\n"
        "except SystemExit as stop: assert not stop.code\n"
        "print(' '.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, set(done.stderr.split())


def test_help_imports_nothing_heavy() -> None:
    printed, modules = run_and_list_modules("--help")
    assert not {"torch", "transformers", "accelerate", "duckdb", "pydantic", "datasets"} & modules
    for command in ("prepare", "train", "evaluate", "export", "validate"):
        assert command in printed


@pytest.mark.parametrize("name", ["demo", "qwen3_8b", "qwen3_32b_zero3"])
def test_shipped_configs_are_valid(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["validate", str(ROOT / "configs" / f"{name}.yaml")])
    assert not stop.value.code
    assert "is valid" in capsys.readouterr().out


def test_validate_loads_no_model() -> None:
    _, modules = run_and_list_modules("validate", "configs/qwen3_8b.yaml")
    assert "pydantic" in modules
    assert not {"torch", "transformers"} & modules


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.bach_size=3", "unknown key 'train.bach_size': did you mean 'batch_size'?"),
        ("data.prompt.prefx=[a]", "unknown key 'data.prompt.prefx': did you mean 'prefix'?"),
        ("tokens.max_row=100", "raise it to at least"),
        ("backbone.dtype=bfloat16", "needs train.precision: bf16"),
        ("train.lr=fast", "key 'train.lr'"),
        ("train.lr=-1", "greater than 0"),
        ("objectives.ctr=false", "add objectives.ctr"),
        ("evaluate.field_baselines=[x]", "add it to data.fields"),
        ("evaluate.omegas=[{coverage: 1}]", "no list-wise objective of this run"),
        ("balancing.method=best", "unknown method 'best': choose from weighted, mgda, pcgrad"),
        ("nonsense", "is not of the form key.sub=value"),
        ("name.sub=1", "'name' is a value, not a section"),
    ],
)
def test_refused_setting_is_one_sentence(override: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["validate", str(ROOT / "configs" / "demo.yaml"), override])
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert sentence in printed
    assert "Traceback" not in printed


def test_missing_config_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["validate", str(tmp_path / "none.yaml")])
    assert stop.value.code == 2
    assert "does not exist" in capsys.readouterr().err


def test_overrides_are_yaml_and_reach_their_place() -> None:
    config = load_config(
        ROOT / "configs" / "demo.yaml", ["train.lr=3e-4", "evaluate.cutoffs=[3]", "train.negatives=null", "name=x"]
    )
    assert config.train.lr == 3e-4
    assert config.evaluate.cutoffs == [3]
    assert config.train.negatives is None
    assert config.name == "x"

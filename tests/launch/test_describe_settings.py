"""Every setting is described, and page, schema, explanation and template are made of that."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from equipoise.configs.load import build_config, load_config
from equipoise.launch.cli import main
from equipoise.launch.describe_settings import all_settings, files, page, template

ROOT = Path(__file__).resolve().parents[2]


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    printed = capsys.readouterr()
    code = stop.value.code
    return (code if isinstance(code, int) else 0), printed.out, printed.err


def test_every_setting_has_a_description() -> None:
    settings = [one for several in all_settings().values() for one in several]
    assert len(settings) > 180
    bare = [f"{one.model.__name__}: {one.key}" for one in settings if len(one.description) < 8]
    assert not bare
    assert not [one.key for one in settings if "<class" in one.kind or "typing." in one.kind]


def test_the_page_is_what_the_command_gives(capsys: pytest.CaptureFixture[str]) -> None:
    committed = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert committed == page(), "run: equipoise config docs --out docs/configuration.md"
    assert command(capsys, "config", "docs") == (0, page(), "")
    for several in all_settings().values():
        assert f"| `{several[0].key.rpartition('.')[2]}` |" in committed


def test_a_setting_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = command(capsys, "config", "explain", "train.lr")
    assert code == 0 and "number, above 0" in said and "default: 0.001" in said and "schema.TrainConfig" in said
    assert "  lora.rank: Rank" in command(capsys, "config", "explain", "lora")[1]
    assert "list of sections" in command(capsys, "config", "explain", "data.features")[1]
    assert "at least 2 and at most 4096" in command(capsys, "config", "explain", "data.features.max_categories")[1]
    several = command(capsys, "config", "explain", "balancing.options.momentum")[1]
    assert "(with `method: gradvac`)" in several and "(with `method: pcd`)" in several
    assert "whole number, above 0" in command(capsys, "config", "explain", "sweep.parallel")[1]
    assert command(capsys, "config", "explain", "train.forget")[1].startswith("'train.forget' is now called 'train.fea")


def test_an_unknown_setting_names_the_nearest_ones(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = command(capsys, "config", "explain", "train.leraning_rate")
    assert code == 2 and "there is no setting 'train.leraning_rate': the nearest are train." in said


def schema_of(of: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """What checks files against the written schema."""
    jsonschema, out = pytest.importorskip("jsonschema"), folder / "schema.json"
    assert command(capsys, "config", "schema", "--of", of, "--out", str(out))[0] == 0
    return jsonschema.Draft202012Validator(json.loads(out.read_text("utf-8")))


@pytest.mark.parametrize(
    "changed",
    [
        {"data": {"rates": [{"of": "click", "by": "item_id"}]}},
        {"data": {"rates": [{"of": "click", "by": ["item_id", "user_id"], "parent": "user_id"}]}},
        {"data": {"features": ["price", {"name": "bought", "scale": "log1p"}]}},
        {"data": {"split": {"holdout_items": 0.1}}},
        {"objectives": {"ctr": {"prior": "trees"}}},
        {"objectives": {"ctr": {"prior": {"column": "my_logit"}}}},
        {"objectives": {"ctr": None, "cvr": False}},
        {"objectives": {"ctr": {}, "liked": {"kind": "value", "label": "liked"}}},
        {"balancing": {"level": "boundary"}},
        {"balancing": {"level": {"layers": 2}}},
    ],
    ids=str,
)
def test_what_is_read_fulfils_the_schema(
    changed: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = yaml.safe_load((ROOT / "configs" / "simulator.yaml").read_text("utf-8"))
    settings = {**settings, **{name: {**settings.get(name, {}), **each} for name, each in changed.items()}}
    build_config(settings, [], tmp_path / "run.yaml")
    assert not [error.message for error in schema_of("run", tmp_path, capsys).iter_errors(settings)]


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "configs").glob("*.yaml")))
def test_shipped_files_fulfil_the_schema(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = schema_of("sweep" if name.startswith("sweep") else "run", tmp_path, capsys)
    settings = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text("utf-8"))
    assert not list(schema.iter_errors(settings))
    assert list(schema.iter_errors({**settings, "nam": "x"})) and list(schema.iter_errors({**settings, "name": 3}))


def test_a_schema_of_something_else_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(capsys, "config", "schema", "--of", "model")[::2] == (
        2,
        "error: --of model: there is no such file: name one of run, sweep, campaign\n",
    )


def test_the_template_is_valid_and_names_every_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    code, said, _ = command(capsys, "init", str(path))
    assert code == 0 and "equipoise validate" in said
    paths = {"prepared/my-shop": tmp_path / "slates", "tables/items.parquet": tmp_path / "items.csv"}
    text = path.read_text("utf-8")
    for old, new in paths.items():
        assert old in text
        text = text.replace(old, str(new))
    path.write_text(text, "utf-8")
    assert "is valid: run 'my-run', objectives ctr" in command(capsys, "validate", str(path))[1]
    assert load_config(path).data.folder == tmp_path / "slates"
    whole = yaml.safe_load(re.sub(r"^( *)#(\w+:)", r"\1\2", text, flags=re.M))
    known = {key for key, several in all_settings().items() if several[0].model.__module__.startswith("equipoise.conf")}
    assert set(_keys(whole)) <= known
    tops = set(files()[""].model_fields)
    assert set(whole) == tops and set(whole["train"]) == set(files()[""].model_fields["train"].annotation.model_fields)  # type: ignore[union-attr]


def test_the_template_replaces_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text("name: mine\n")
    code, _, said = command(capsys, "init", str(tmp_path / "run.yaml"))
    assert code == 2 and "exists: name another file" in said
    assert (tmp_path / "run.yaml").read_text() == "name: mine\n"
    assert template().startswith("# Settings of a run.")


def _keys(settings: Any, prefix: str = "") -> list[str]:
    if not isinstance(settings, dict):
        return [prefix[:-1]]
    return [key for name, value in settings.items() for key in _keys(value, f"{prefix}{name}.")] or [prefix[:-1]]

"""The docs hold what they show: the site builds, links lead somewhere, code compiles, commands and settings exist."""

import ast
import functools
import importlib
import importlib.util
import inspect
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from equipoise.configs.campaign import Campaign
from equipoise.configs.schema import RunConfig
from equipoise.launch.cli import app
from equipoise.launch.describe_settings import all_settings
from equipoise.launch.launch_job import FOLDER
from equipoise.sweep.config import SweepConfig
from tests.packaging.docs_blocks import PAGES, ROOT, Block, blocks, command_lines, inline_commands
from tests.tiny_run import run_settings

OTHER_TOOLS = {"cat", "curl", "docker", "export", "git", "hf", "mkdocs", "mlflow", "pytest", "tensorboard", "wandb"}
"""Commands of others that pages show."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
README, RESULTS = ROOT / "README.md", ROOT / "benchmarks" / "RESULTS.md"
OUTSIDE = (README, RESULTS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md")
GROUP: Any = typer.main.get_command(app)


def build(folder: Path, config: Path = ROOT / "mkdocs.yml") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow
def test_the_site_builds_with_every_link(tmp_path: Path) -> None:
    done = build(tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    commands = (tmp_path / "site" / "commands.html").read_text("utf-8")
    for name in ("equipoise front", "equipoise config explain", "--maximize"):
        assert name in commands
    assert "LightGBM" in (tmp_path / "site" / "results.html").read_text("utf-8")
    assert "Peppermint tea" in (tmp_path / "site" / "notebooks" / "first_run.html").read_text("utf-8")
    assert (tmp_path / "site" / "configs" / "demo.yaml").is_file()  # a file outside docs/ that a page links to


@pytest.mark.slow
@pytest.mark.parametrize("link", ["nowhere.md", "glossary.md#nothing", "../configs/none.yaml"])
def test_a_broken_link_stops_the_build(link: str, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# A page\n\n[a link]({link})\n", "utf-8")
    (tmp_path / "docs" / "glossary.md").write_text("# Words\n", "utf-8")
    settings = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[0] + "\nnav: [{Guides: [index.md]}]\n"
    hooks = f"hooks: [{ROOT / 'docs' / 'site' / 'pages.py'}]"
    (tmp_path / "mkdocs.yml").write_text(re.sub(r"^hooks:.*$", hooks, settings, flags=re.M), "utf-8")
    done = build(tmp_path / "site", tmp_path / "mkdocs.yml")
    assert done.returncode != 0 and link.split("/")[-1] in done.stdout + done.stderr


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and MkDocs make it."""
    plain = re.sub(r"[^\w\s-]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower())
    return re.sub(r"[\s]+", "-", plain.strip())


@pytest.mark.parametrize("page", OUTSIDE, ids=lambda path: path.name)
def test_links_outside_the_docs_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text("utf-8")):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), flags=re.M)
            assert anchor in map(slug, headings), f"{target}#{anchor}"


def test_the_readme_is_short_and_its_figures_are_those_of_the_results() -> None:
    text = README.read_text("utf-8")
    assert len(text.split()) <= 900
    figures = set(re.findall(r"(?<![\w.])[+−-]?\d+\.\d{2,}(?![\w.])", text))
    assert {"0.9168", "+0.008"} <= figures
    results = RESULTS.read_text("utf-8")
    assert not {figure for figure in figures if figure not in results}
    table = [row for row in text.splitlines() if row.startswith("| g")]
    assert len(table) == 4  # of figures, the README has one table


def test_no_measured_table_of_the_results_stands_on_another_page() -> None:
    lines = RESULTS.read_text("utf-8").splitlines()
    rows = {line for line in lines if line.startswith("|") and re.search(r"\d\.\d", line)}
    assert len(rows) > 25
    for page in PAGES:
        assert not rows & set(page.read_text("utf-8").splitlines()), page.name


KNOWN = set(all_settings())
"""Settings of all files."""


@functools.cache
def command_of(words: tuple[str, ...]) -> tuple[Any, int]:
    """The command that words begin with, and how many of them name it."""
    command, used = GROUP, 0
    while hasattr(command, "commands") and used < len(words):
        assert words[used] in command.commands, f"equipoise has no command '{' '.join(words[: used + 1])}'"
        command, used = command.commands[words[used]], used + 1
    return command, used


def option_names(command: Any) -> set[str]:
    """The options of a command."""
    return {name for each in command.params for name in (*each.opts, *each.secondary_opts)} | {"--help"}


def check_options(words: list[str]) -> None:
    """Refuse options that a command of ours does not have, and settings that there are none of."""
    command, used = command_of(tuple(words))
    rest = words[used:]
    if command is GROUP.commands["launch"]:
        inner = next((n for n, word in enumerate(rest) if word in ("train", "evaluate", "score", "front")), None)
        if inner is not None:
            check_options(rest[inner:])
        return
    known = option_names(command)
    for word in rest:
        option = word.partition("=")[0]
        assert not re.match(r"--?[a-z]", word) or option in known, f"equipoise {words[0]} has no option {option}"
    for word in rest:
        if match := re.fullmatch(r"([a-z_]+(?:\.\w+)+)=[^…]+", word):
            assert match[1] in KNOWN, f"there is no setting {match[1]}"


def check_command(words: list[str]) -> None:
    """One command of a page."""
    name, rest = words[0], words[1:]
    if name == "equipoise":
        check_options(rest)
    elif name == "accelerate":
        module = rest[rest.index("-m") + 1]
        assert importlib.util.find_spec(module) is not None, module
        check_options([module.rpartition(".")[2], *rest[rest.index("-m") + 2 :]])
    elif name == "python":
        if rest[0] == "-m":
            assert importlib.util.find_spec(rest[1]) is not None, rest[1]
            source = inspect.getsource(importlib.import_module(rest[1])) if rest[1].startswith("benchmarks") else ""
            for option in [word for word in rest[2:] if word.startswith("--") and source]:
                assert f'"{option}"' in source, f"{rest[1]} has no option {option}"
    elif name == "make":
        targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text("utf-8"), flags=re.M)
        assert set(rest) <= set(targets), rest
    elif name == "pip":
        for extra in re.findall(r"(?:equipoise|\.)\[(.*?)\]", " ".join(rest)):
            assert set(extra.split(",")) <= set(PROJECT["optional-dependencies"]), extra
    else:
        assert name in OTHER_TOOLS, f"{name} is no command that the docs may show"
    for word in words:
        if re.match(r"configs/.*\.yaml$", word):
            assert (ROOT / word).is_file(), word


@pytest.mark.parametrize("block", blocks("bash"), ids=str)
def test_commands_exist_with_their_options(block: Block) -> None:
    commands = list(command_lines(block.text))
    assert commands
    for words in commands:
        check_command(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_in_sentences_exist_with_their_options(page: Path) -> None:
    for words in inline_commands(page):
        if "&&" in words:
            words = words[: words.index("&&")]
        command, used = command_of(tuple(words[1:]))
        known = option_names(command)
        if command is not GROUP.commands["launch"]:
            for word in words[1 + used :]:
                for option in word.split("/") if word.startswith("--") else ():
                    assert option.partition("=")[0] in known, words


@pytest.mark.parametrize("line", ["frnot RUN", "front RUN --knees", "train c.yaml trian.lr=3", "config explian a"])
def test_a_wrong_command_is_seen(line: str) -> None:
    with pytest.raises(AssertionError):
        check_options(line.split())


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_compiles_and_its_imports_are_there(block: Block) -> None:
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
    ours = importlib.import_module("equipoise")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ours.__all__:
            value = getattr(ours, node.func.id)
            if inspect.isfunction(value):  # arguments that it takes
                named = {each.arg: None for each in node.keywords if each.arg}
                inspect.signature(value).bind(*[None] * len(node.args), **named)


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_is_json(block: Block) -> None:
    json.loads(block.text.replace(", …", ""))


def merged(base: Any, change: Any) -> Any:
    """Settings with others put over them, section by section."""
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    return {**base, **{key: merged(base.get(key), value) for key, value in change.items()}}


def model_of(settings: dict[str, Any]) -> type[BaseModel] | None:
    """What a file with these settings would be; None of Accelerate's own."""
    if set(settings) <= set(yaml.safe_load((FOLDER / "zero3.yaml").read_text("utf-8"))):
        return None
    models = (RunConfig, SweepConfig, Campaign)
    fitting = [model for model in models if set(settings) <= set(model.model_fields)]
    assert fitting, f"no file has the settings {', '.join(settings)}"
    return fitting[0]


def faults(model: type[BaseModel], settings: dict[str, Any]) -> list[str]:
    """What is wrong with a part of a file, whatever else the whole file would hold."""
    try:
        TypeAdapter(model).validate_python(settings)
    except ValidationError as error:
        # What the page leaves out, and the objective whose package another test installs.
        left_out = [fault for fault in error.errors() if fault["type"] == "missing" or not fault["loc"]]
        others = [fault for fault in error.errors() if fault not in left_out and fault["input"] != "…"]
        return [str(fault) for fault in others if fault["loc"][:2] != ("objectives", "novelty")]
    return []


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A whole run, over which a page's part of one is put."""
    return run_settings(tmp_path_factory.mktemp("docs"))


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_settings_are_those_of_the_schema(block: Block, base: dict[str, Any]) -> None:
    settings = yaml.safe_load(block.text)
    model = model_of(settings)
    if model is RunConfig:
        own_tables = (settings.get("data") or {}).get("source", "tables") == "tables"
        settings = merged(base, settings)
        if not own_tables:
            del settings["data"]["tables"]
    assert model is None or not faults(model, settings)


def test_wrong_settings_are_seen(base: dict[str, Any]) -> None:
    for wrong in ({"train": {"lrr": 1}}, {"train": {"lr": "much"}}, {"balancing": {"method": "best"}}):
        assert faults(RunConfig, merged(base, wrong))
    assert not faults(RunConfig, merged(base, {"train": {"lr": 1e-3}}))
    with pytest.raises(AssertionError):
        model_of({"trian": {}})

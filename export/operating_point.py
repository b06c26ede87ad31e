"""The chosen operating point: written into the run folder by `equipoise front`, taken into serving.json by exports."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.common.hashing import file_hash
from equipoise.export.adapters import SLATE_HEAD
from equipoise.export.card import with_operating_point
from equipoise.export.request_schema import SCHEMA_FILE, write_request_schema
from equipoise.export.serving_record import FILE_NAME, read_serving_record, write_serving_record
from equipoise.modeling.adapter_store import TENSORS, adapters_hash, read_info

POINT_FILE = "operating_point.json"
CARD = "README.md"
MORE = ("relevance_weights", "value_exponents")
"""What an earlier choice may have left in an export."""


def write_operating_point(run: Path, point: Mapping[str, Any], adapters: Path | None = None) -> Path:
    """Write RUN/operating_point.json, whole or not at all, with the hash of the adapters that it was chosen for.

    Args:
        run: the run folder.
        point: `omega` (list-wise objective → ω), `bounds` (→ [lowest, largest] ω that was measured), `note`, and,
            where the choice has them, `relevance_weights` and `value_exponents`.
        adapters: the folder of those adapters; RUN/adapters where nothing is said.
    """
    path = run / POINT_FILE
    record = {**point, "adapters": adapters_hash(adapters or run / "adapters")}
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return path


ADDED = " + Σ ω_k δ_k"
"""What list-wise objectives add to the utility, where lists are sorted by it."""


def adds_to_utility(lists: Mapping[str, Any] | None) -> bool:
    """Whether ω δ is added to the utility of an export whose serving.json has these `lists`."""
    return not lists or any(term["kind"] == "adjust" for term in lists["terms"].values())


def read_operating_point(run: Path, adapters: Path | None = None, added: bool = True) -> dict[str, Any]:
    """What a run's chosen point changes in `operating_point` of serving.json.

    omega, bounds, note, utility and what else the choice weighs, where that has an effect; {} without a choice. It must
    have been made for these `adapters`, RUN/adapters where nothing is said. `added`: as `adds_to_utility` says.

    Raises:
        UserError: the file cannot be read, or was chosen for other adapters.
    """
    path, adapters = run / POINT_FILE, adapters or run / "adapters"
    if not path.is_file():
        return {}
    way_out = f"run `equipoise front {run}` again, or delete the file"
    try:
        record = json.loads(path.read_text("utf-8"))
        point = {
            "omega": {str(name): _weight(value) for name, value in record["omega"].items()},
            "bounds": {str(name): [_weight(low), _weight(high)] for name, (low, high) in record["bounds"].items()},
            "note": str(record["note"]),
        }
        relevance = {str(name): _weight(value) for name, value in record.get("relevance_weights", {}).items()}
        exponents = {str(name): _weight(value) for name, value in record.get("value_exponents", {}).items()}
        chosen_for = record["adapters"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} cannot be read as an operating point: {way_out}") from error
    if chosen_for != adapters_hash(adapters):
        raise UserError(f"{path} was chosen for other adapters than the run holds now ({adapters}): {way_out}")
    utility = "u = r" + (ADDED if added else "")
    plain = read_info(adapters).relevance
    if any(weight != (plain.get(name, 0.0) if plain else 1.0) for name, weight in relevance.items()):
        point["relevance_weights"] = relevance
        utility = "u = " + " + ".join(f"{weight:g} · log p_{name}" for name, weight in relevance.items())
        utility += " + the other terms of r" if plain else " + log p of the others"
        utility += ADDED if added else ""
    if any(exponents.values()):
        point["value_exponents"] = exponents
        utility += "".join(f" + {weight:g} · log {name}" for name, weight in exponents.items())
    point["utility"] = utility
    return point


def _weight(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value} is not a finite weight")
    return number


def check_export(export: Path, run: Path, adapters: Path | None = None) -> dict[str, Any]:
    """The serving.json of an export of this very run, whose slate heads are those of its `adapters`.

    Raises:
        UserError: the folder is not an export, or one of other adapters.
    """
    try:
        serving = read_serving_record(export)
        objectives = dict(serving["objectives"])
        listwise = {name: about["folder"] for name, about in objectives.items() if about["kind"] == "listwise"}
        has_point = isinstance(serving["operating_point"], dict) and (export / CARD).is_file()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{export} is not an export ({FILE_NAME} cannot be read): name one of `equipoise export`"
        ) from error
    if not has_point:
        raise UserError(f"{export} is not a complete export: run `equipoise export {run} {export} --overwrite`")
    tensors = load_file((adapters or run / "adapters") / TENSORS)
    for name, folder in listwise.items():
        prefix = f"heads.{name}."
        ours = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        head = export / folder / SLATE_HEAD
        exported = load_file(head) if head.is_file() else {}
        if not ours or set(ours) != set(exported) or any(not ours[key].equal(exported[key]) for key in ours):
            raise UserError(
                f"{export} holds other adapters than {run} ('{name}' differs): "
                f"run `equipoise export {run} {export} --overwrite`, which takes the chosen point along"
            )
    return serving


def update_export(export: Path, run: Path, adapters: Path | None = None) -> None:
    """Write the run's chosen point into an export's serving.json and model card, each whole or not at all.

    Raises:
        UserError: as `read_operating_point` and `check_export`.
    """
    serving = check_export(export, run, adapters)
    kept = {key: value for key, value in serving["operating_point"].items() if key not in MORE}
    serving["operating_point"] = kept | read_operating_point(run, adapters, adds_to_utility(serving.get("lists")))
    try:
        card = with_operating_point((export / CARD).read_text("utf-8"), serving)
    except ValueError as error:
        raise UserError(f"{export / CARD} is not a card of this version: export again with --overwrite") from error
    if (export / SCHEMA_FILE).is_file():
        write_request_schema(export, serving)
        serving["files"] |= {SCHEMA_FILE: file_hash(export / SCHEMA_FILE)}
    with atomic_write(export / CARD) as partial:
        partial.write_text(card, "utf-8")
    write_serving_record(export, serving)

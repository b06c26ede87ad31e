"""equipoise rates update: later impressions into the rates of an export, without training."""

from pathlib import Path

import pyarrow.parquet as pq

from equipoise.common.console import new_console
from equipoise.common.errors import UserError
from equipoise.data.prepare.rate_update import update_states
from equipoise.data.rates import FOLDER
from equipoise.export.serving_record import read_serving_record

KEY = "key_"


def update_rates(export: Path, impressions: Path, out: Path | None) -> None:
    """Add impressions to the state of the rates of an export, or to that in `out`, where an earlier call wrote it.

    Args:
        export: whose items tell the columns of items that impressions lack.
        impressions: a file of them, all later than the state.
        out: folder to write; None writes into the export.

    Raises:
        UserError: the export has no rates, `out` holds other files, or the impressions do not fit.
    """
    record = read_serving_record(export)
    names = record.get("rates", [])
    if not names:
        raise UserError(f"{export} has no rates: name some with data.rates, then prepare, train and export again")
    source, target = export / FOLDER, out or export / FOLDER
    if out is not None and out.exists():
        held = {path.name for path in out.iterdir()} if out.is_dir() else {out.name}
        if held and held != set(names):
            raise UserError(f"{out} holds other files than the rates of {export}: name another folder")
        source = out if held else source
    items = export / record["catalogue"]["items"]
    keys = {name.removeprefix(KEY): name for name in pq.read_schema(items).names if name.startswith(KEY)}
    count, last = update_states([source / name for name in names], impressions, items, keys, target)
    new_console().print(f"counted {count:,} impressions until {last:%Y-%m-%d %H:%M:%S}: {target}", soft_wrap=True)

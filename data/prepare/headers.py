"""Checks the tables of a config by their headers alone: names that no table has are known before any work."""

from collections.abc import Collection, Mapping

import duckdb

from equipoise.configs.schema import DataConfig
from equipoise.data.labels import LabelStats
from equipoise.data.prepare.files import find_table
from equipoise.data.prepare.labels import fill_absent_labels
from equipoise.data.prepare.new_items import check_new_items
from equipoise.data.prepare.slates import check_names
from equipoise.data.prepare.tables import REQUIRED, check_columns, open_files


def check_headers(config: DataConfig, labels: Mapping[str, LabelStats], read: Collection[str]) -> list[str]:
    """Refuse columns that a config names and the headers of its tables lack; returns what could not be checked.

    Args:
        config: of the data; a source that brings its own tables has nothing to check.
        labels, read: as of `equipoise.data.prepare.slates.prepare`.

    Raises:
        UserError: names file, column and setting; or a file cannot be read.
    """
    if config.tables is None:
        return []
    paths = {name: path for name in REQUIRED if (path := getattr(config.tables, name)) is not None}
    here = {name: path for name, path in paths.items() if path.exists() or "*" in str(path)}
    if not here:
        return ["no table of data.tables is on this machine: their columns were not checked"]
    for name, path in paths.items():
        find_table(path, f"data.tables.{name}")
    with duckdb.connect() as con:
        con.execute("SET enable_progress_bar = false")
        tables = open_files(con, config.tables)
        fill_absent_labels(tables, read)
        check_names(tables, config)
        for name, label in labels.items():
            check_columns(tables, "impressions", [label.label], f", which objectives.{name}.label names")
        check_new_items(tables, config)
    return []

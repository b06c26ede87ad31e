"""Checks the tables of a config by their headers alone: names that no table has are known before any work."""

import glob
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

import duckdb

from equipoise.configs.schema import DataConfig
from equipoise.data.database_bar import hide_bar
from equipoise.data.labels import LabelStats
from equipoise.data.prepare.engine import refuse_unread_by_spark
from equipoise.data.prepare.files import is_there
from equipoise.data.prepare.labels import fill_absent_labels, refuse_known_labels
from equipoise.data.prepare.new_items import check_new_items
from equipoise.data.prepare.slates import check_names
from equipoise.data.prepare.tables import missing_columns, open_files, refuse_missing


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
    files = config.tables.files.values()
    if config.engine == "spark":
        refuse_unread_by_spark(config)
        if any(file.query is not None for file in files):
            return ["data.engine: spark queries a table of its catalogue: the columns of tables were not checked"]
    local = [Path(file.path) for file in files if file.path is not None and not file.is_remote]
    if len(local) == len(files) and not any(
        glob.has_magic(str(path)) or is_there(path, "data.tables:") for path in local
    ):
        return ["no table of data.tables is on this machine: their columns were not checked"]
    with tempfile.TemporaryDirectory() as work, duckdb.connect() as con:
        hide_bar(con)
        tables = open_files(con, config.tables, Path(work), head=True)
        fill_absent_labels(tables, read)
        check_names(tables, config)
        refuse_known_labels(config, tables.columns("impressions"), labels, read)
        reads = {label.label: f", which objectives.{name}.label names" for name, label in labels.items()}
        refuse_missing([c for name, why in reads.items() for c in missing_columns(tables, "impressions", [name], why)])
        check_new_items(tables, config)
    return []

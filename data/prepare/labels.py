"""Checks the label columns of a run's objectives, and measures them on the train split."""

from collections.abc import Collection, Iterable, Mapping

from equipoise.common.errors import UserError
from equipoise.configs.schema import DataConfig
from equipoise.data.labels import KEPT, LabelStats, columns_of_labels
from equipoise.data.manifest import Manifest
from equipoise.data.prepare.files import quote
from equipoise.data.prepare.tables import Tables, check_columns, missing_required, one, refuse_missing
from equipoise.data.prompts import piece_fields


def fill_absent_labels(tables: Tables, read: Collection[str]) -> None:
    """Let impressions lack click or conversion where no objective reads it: `read` are those that some read.

    A table without conversions has 0 of them. In one without clicks a conversion counts as the click.

    Raises:
        UserError: a label that is read is missing, and no other can take its place.
    """
    columns = tables.columns("impressions")
    tables.unread_labels = tuple(label for label in KEPT if label not in read)
    because = {
        "conversion": ", which the objectives read (leave objectives.cvr out where nothing converts)",
        "click": " (without it, and without objectives.cvr, a column 'conversion' counts as the click)",
    }
    needs_click = "conversion" not in columns or "conversion" in read
    optional = [*([] if "conversion" in read else ["conversion"]), *([] if needs_click else ["click"])]
    refuse_missing(missing_required(tables, optional, because))
    added = {}
    if "conversion" not in columns:
        added["conversion"] = "0"
    if "click" not in columns:
        added["click"] = "conversion"
        tables.notes.append("impressions has no clicks: a conversion counts as the click, so pCTR is its probability.")
    if added:
        con, values = tables.con, ", ".join(f"{value} AS {name}" for name, value in added.items())
        views = "SELECT count(*) FROM duckdb_views() WHERE view_name = 'raw_impressions'"
        kind = "VIEW" if one(con, views)[0] else "TABLE"  # files are views, sources make tables
        con.execute(f"ALTER {kind} raw_impressions RENAME TO given_impressions")
        con.execute(f"CREATE VIEW raw_impressions AS SELECT *, {values} FROM given_impressions")
        tables.absent_labels += added


def check_label_columns(tables: Tables, labels: Mapping[str, LabelStats]) -> None:
    """Refuse labels that impressions lack, or whose values are not of their kind.

    Raises:
        UserError: names the file, the column, the first bad value and the fix.
    """
    for name, label in labels.items():
        check_columns(tables, "impressions", [label.label], f", which objectives.{name}.label names")
        if label.label not in KEPT:
            _check_values(tables, name, label)


def refuse_known_labels(
    config: DataConfig, columns: Collection[str], labels: Mapping[str, LabelStats], read: Collection[str]
) -> None:
    """Refuse labels among what a model is told of an impression: nobody knows them when candidates are scored.

    Args:
        config: of the data.
        columns: of the impressions.
        labels, read: as of `equipoise.data.prepare.slates.prepare`.

    Raises:
        UserError: names the setting and the label.
    """
    learned = {*read, *(label.label for label in labels.values())} & set(columns)
    told = {
        "data.prompt.prefix": piece_fields(config.prompt.prefix),
        "data.prompt.context": piece_fields(config.prompt.context),
        "data.features": config.feature_names,
    }
    for setting, names in told.items():
        for name in names:
            if name in learned:
                raise UserError(
                    f"{setting} names '{name}', which an objective learns and nobody knows when candidates are scored: "
                    "leave it out"
                )


def label_sql(column: str) -> str:
    """A label as a number, NULL where it cannot be read; true and false are 1 and 0."""
    text = f"lower(trim(CAST(i.{quote(column)} AS VARCHAR)))"
    number = f"TRY_CAST(CASE {text} WHEN 'true' THEN '1' WHEN 'false' THEN '0' ELSE {text} END AS DOUBLE)"
    return f"CASE WHEN isfinite({number}) THEN {number} END"


def _check_values(tables: Tables, name: str, label: LabelStats) -> None:
    number, column = label_sql(label.label), f"i.{quote(label.label)}"
    unread = f"{number} IS NULL"
    rules = {
        "binary": (f"{unread} OR {number} NOT IN (0, 1)", "write 0 or 1"),
        "count": (f"{unread} OR {number} < 0 OR {number} <> floor({number})", "write whole numbers of 0 or more"),
        "value": (unread, "write numbers, and leave unknown ones empty"),
    }
    bad, way_out = rules[label.form]
    if label.positive:
        bad, way_out = f"{bad} OR {number} < 0", "write numbers of 0 or more, or drop positive"
    given = f"{column} IS NOT NULL AND trim(CAST({column} AS VARCHAR)) <> ''"
    query = f"SELECT row_number() OVER () AS row, {column} AS value, {given} AND ({bad}) AS bad FROM raw_impressions i"
    first = tables.con.execute(f"SELECT row, value FROM ({query}) WHERE bad ORDER BY row LIMIT 1").fetchone()
    if first:
        raise UserError(
            f"{tables.labels['impressions']} (data.tables.impressions) has {label.label} '{first[1]}' in row "
            f"{first[0]}, but objectives.{name} is of kind {label.form}: {way_out}"
        )


def kept_labels(
    labels: Mapping[str, LabelStats], kept: Manifest | None, config: DataConfig
) -> dict[str, LabelStats] | None:
    """The labels with their numbers as another prepared folder has them; None where there is none.

    Raises:
        UserError: it was prepared for other labels.
    """
    if kept is None:
        return None
    for name, label in labels.items():
        if name not in kept.labels or not kept.labels[name].same_question(label):
            raise UserError(
                f"data.scales_from: {config.scales_from} was not prepared for the label of objectives.{name}: name a "
                "folder of the same objectives"
            )
    return {name: kept.labels[name] for name in labels}


def measure_labels(
    tables: Tables, labels: Mapping[str, LabelStats], weight: str | None = None
) -> dict[str, LabelStats]:
    """The labels with their numbers on the observed rows of the train split.

    Args:
        weight: column of the impressions by which the mean is weighed; None weighs all alike.

    Raises:
        UserError: a label is constant there, never observed, or (binary) missing where it should be observed.
    """
    return {name: _measured(tables, name, label, weight) for name, label in labels.items()}


def _measured(tables: Tables, name: str, label: LabelStats, weight: str | None) -> LabelStats:
    number = label_sql(label.label)
    observed = " AND ".join(["true", *(f"{label_sql(column)} = 1" for column in label.chain)])
    w = quote(weight) if weight else "1"
    rows, known, mean, std, least, most = one(
        tables.con,
        "SELECT count(*), count(n), sum(n * w) / sum(w) FILTER (n IS NOT NULL), stddev_pop(n), min(n), max(n) FROM "
        f"(SELECT {number} AS n, {w} AS w FROM impressions i JOIN requests r USING (request_id) "
        f"WHERE r.split = 0 AND {observed})",
    )
    given = f" where {' and '.join(label.chain)} happened" if label.chain else ""
    where = f"{tables.labels['impressions']} (data.tables.impressions), column {label.label}: "
    if label.form == "binary" and known < rows:
        raise UserError(f"{where}{rows - known} of {rows} rows of the train split{given} are empty: write 0 or 1")
    if known == 0 or least == most:
        counted = f"{least:g} in all {known} rows" if known else "nothing"
        raise UserError(
            f"{where}the train split has {counted}{given}, so objectives.{name} has nothing to learn: leave it out or "
            "correct the label"
        )
    numbers = {"rows": known, "mean": mean, "std": std, "least": least, "most": most}
    return label.model_copy(update=numbers)


def label_columns(labels: Mapping[str, LabelStats]) -> Iterable[str]:
    """What `sorted_impressions` keeps of the labels, in SQL."""
    for column in columns_of_labels(labels):
        yield f", CAST({label_sql(column)} AS FLOAT) AS {quote('label_' + column)}"

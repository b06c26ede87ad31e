"""Ali-CCP (Ma et al., SIGIR 2018, Alibaba, for research): what was shown on Taobao, clicked and bought.

`data.file` is the folder of sample_skeleton_train.csv, common_features_train.csv and, where you have them, the test
files. A request is what shares a common_feature_index. The set tells no times: the order of the samples stands for
them, and there are no histories. The test file is the test split, the last tenth of the training requests valid.
Numbers are all that is known of an item; the provider is its shop, groups are gender and age.
"""

from pathlib import Path

import duckdb

from equipoise.data.prepare.tables import Tables
from equipoise.data.sources.sessions import find_files, open_view, read_csv, tables_of

WHAT = "Ali-CCP"
FIELDS = {"item_id": "205", "category": "206", "shop": "207", "brand": "216"}
USER_FIELDS = {"user_id": "101", "gender": "124", "age": "125", "consumption": "126", "geography": "129"}
VALID = 0.1
NOTES = (
    "Ali-CCP tells no times: the order of its samples stands for them, so that drift and histories mean nothing.",
    "gender, age, consumption and geography are Alibaba's numbers.",
)


def _value(field: str) -> str:
    """SQL of the number of a field in a text of field\\x02feature\\x03value\\x01…; NULL where it is not there."""
    return f"nullif(regexp_extract(features, '(?:^|\\x01){field}\\x02([^\\x03]+)\\x03', 1), '')"


def load(con: duckdb.DuckDBPyConnection, path: Path) -> Tables:
    """Create raw_impressions, raw_items and raw_users from the skeletons and common features.

    Raises:
        UserError: a file is missing, or cannot be read.
    """
    parts = [part for part in ("train", "test") if part == "train" or list(path.rglob(f"sample_skeleton_{part}.csv"))]
    for part in parts:
        samples = find_files(path, (f"sample_skeleton_{part}.csv",), WHAT)
        common = find_files(path, (f"common_features_{part}.csv",), WHAT)
        _open(con, f"ac_samples_{part}", samples, ("sample_id", "click", "conversion", "common", "count", "features"))
        _open(con, f"ac_common_{part}", common, ("common", "count", "features"))
    union = " UNION ALL ".join(f"SELECT '{part}' AS part, * FROM ac_samples_{part}" for part in parts)
    items = ", ".join(f"{_value(field)} AS {name}" for name, field in FIELDS.items())
    con.execute(f"CREATE TABLE ac_samples AS SELECT part, sample_id, click, conversion, common, {items} FROM ({union})")
    union = " UNION ALL ".join(f"SELECT '{part}' AS part, * FROM ac_common_{part}" for part in parts)
    users = ", ".join(f"{_value(field)} AS {name}" for name, field in USER_FIELDS.items())
    con.execute(f"CREATE TABLE ac_common AS SELECT part, common, {users} FROM ({union})")
    has_test = "test" in parts
    late = (
        f"WHEN place > {1 - VALID} THEN 'valid'"
        if has_test
        else f"WHEN place > {1 - VALID} THEN 'test' WHEN place > {1 - 2 * VALID} THEN 'valid'"
    )
    con.execute(f"""
        CREATE TABLE ac_requests AS
        SELECT part, common, TIMESTAMP '2017-01-01' + to_seconds(row_number() OVER (ORDER BY part = 'test',
               first)) AS timestamp,
               CASE WHEN part = 'test' THEN 'test' {late} ELSE 'train' END AS split
        FROM (SELECT part, common, first, percent_rank() OVER (PARTITION BY part ORDER BY first) AS place
              FROM (SELECT part, common, min(CAST(sample_id AS BIGINT)) AS first FROM ac_samples GROUP BY part, common))
    """)
    con.execute("""
        CREATE TABLE raw_impressions AS
        SELECT s.part || '-' || common AS request_id, r.timestamp, r.split, c.user_id, s.item_id,
               max(CAST(s.click AS INTEGER)) AS click, max(CAST(s.conversion AS INTEGER)) AS conversion
        FROM ac_samples s JOIN ac_requests r USING (part, common) JOIN ac_common c USING (part, common)
        GROUP BY ALL
    """)
    con.execute("""
        CREATE TABLE raw_items AS
        SELECT DISTINCT ON (item_id) item_id, 'product of category ' || coalesce(category, 'unknown') || ', brand '
               || coalesce(brand, 'unknown') || ', shop ' || coalesce(shop, 'unknown') AS title, category, brand,
                      shop AS provider
        FROM ac_samples WHERE item_id IS NOT NULL ORDER BY item_id, part, sample_id
    """)
    names = ", ".join(f"any_value({name}) AS {name}" for name in USER_FIELDS if name != "user_id")
    con.execute(
        f"CREATE TABLE raw_users AS SELECT user_id, {names} FROM ac_common WHERE user_id IS NOT NULL GROUP BY user_id"
    )
    return tables_of(con, "ali_ccp", path, NOTES, split="split")


def _open(con: duckdb.DuckDBPyConnection, name: str, files: list[Path], columns: tuple[str, ...]) -> None:
    kinds = "{" + ", ".join(f"'{column}': 'VARCHAR'" for column in columns) + "}"
    relation = read_csv(files, header="false", columns=kinds, auto_detect="false").replace(", all_varchar=true", "")
    open_view(con, name, relation, columns, files, WHAT)

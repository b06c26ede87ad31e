"""The Complete Journey as a catalogue: which products does a household buy in the next two weeks?

A request is a household at a moment, one every four weeks. Its impressions are the catalogue's products that it bought
in the 14 days after (click; conversion: in two baskets or more) and 30 others, drawn in proportion to how often all
households had bought them. Every field of an impression is computed from data strictly before the moment; the
catalogue from data before the first validation moment.
"""

from pathlib import Path

import duckdb

from equipoise.data.prepare.tables import Tables, one
from equipoise.data.sources.complete_journey import USERS, create_tables

FILES = ("campaigns", "demographics", "products")
FIRST_DAYS, EVERY_DAYS, WINDOW_DAYS, LATELY_DAYS = 56, 28, 14, 56
TRAIN_MOMENTS, VALID_MOMENTS, MOMENTS = 8, 1, 11
LEAST_PURCHASES, LEAST_HOUSEHOLDS = 20, 10
NEGATIVES, DRAWS = 30, 90
LEFT_OUT = ("FUEL", "COUPON", "MISCELLANEOUS", "CNTRL/STORE SUP", "CHARITABLE CONT", "POSTAL CENTER")


def load(con: duckdb.DuckDBPyConnection, folder: Path | None = None) -> Tables:
    """Create raw_impressions, raw_items, raw_users and raw_events from the installed package (or from `folder`).

    Raises UserError where the package is missing.
    """
    views = (_MOMENTS, _CATALOGUE, _ITEMS, _PURCHASES, _REQUESTS, _BEFORE, _LATELY, _TAKEN, _DRAWN)
    labels = create_tables(con, folder, FILES, (*views, _IMPRESSIONS, USERS, _EVENTS))
    counted = "SELECT (SELECT count(*) FROM raw_items) / (SELECT count(*) FROM cj_products)"
    share = "SELECT (SELECT count(*) FROM cj_purchases) / (SELECT count(*) FROM cj_transactions)"
    notes = [
        f"The catalogue holds {one(con, counted)[0]:.0%} of all products and {one(con, share)[0]:.0%} of all "
        f"purchases: those bought at least {LEAST_PURCHASES} times by {LEAST_HOUSEHOLDS} households before the first "
        "validation moment."
    ]
    return Tables(con, source="complete_journey_products", labels=labels, split_column="split", notes=notes)


_MOMENTS = f"""
CREATE TABLE cj_moments AS
SELECT number, date_trunc('day', first) + to_days(CAST({FIRST_DAYS} + {EVERY_DAYS} * number AS INTEGER)) AS moment,
       CASE WHEN number < {TRAIN_MOMENTS} THEN 'train'
            WHEN number < {TRAIN_MOMENTS + VALID_MOMENTS} THEN 'valid' ELSE 'test' END AS split
FROM (SELECT min(transaction_timestamp) AS first FROM cj_transactions), range({MOMENTS}) AS r(number)
"""

_CATALOGUE = f"""
CREATE TABLE cj_catalogue AS
SELECT product_id FROM cj_transactions JOIN cj_products USING (product_id)
WHERE transaction_timestamp < (SELECT moment FROM cj_moments WHERE number = {TRAIN_MOMENTS})
  AND product_type IS NOT NULL AND department NOT IN {LEFT_OUT}
GROUP BY product_id
HAVING count(*) >= {LEAST_PURCHASES} AND count(DISTINCT household_id) >= {LEAST_HOUSEHOLDS}
"""

# Size and maker make a title fairly distinct; events carry the same words, so that a repeat purchase is seen in them.
_ITEMS = """
CREATE TABLE raw_items AS
SELECT CAST(p.product_id AS VARCHAR) AS item_id,
       concat_ws(', ', t.name, lower(p.package_size), 'maker ' || p.manufacturer_id) AS title,
       g.name AS category, d.name AS department, t.name AS product_type, lower(p.brand) AS brand,
       lower(p.brand) AS provider, lower(p.package_size) AS size, CAST(p.manufacturer_id AS VARCHAR) AS maker
FROM cj_catalogue JOIN cj_products p USING (product_id)
LEFT JOIN cj_names t ON t.raw = p.product_type
LEFT JOIN cj_names g ON g.raw = p.product_category
LEFT JOIN cj_names d ON d.raw = p.department
"""

_PURCHASES = """
CREATE TABLE cj_purchases AS
SELECT household_id, product_id, basket_id, transaction_timestamp AS moment
FROM cj_transactions SEMI JOIN cj_catalogue USING (product_id)
"""

_REQUESTS = f"""
CREATE TABLE cj_requests AS
SELECT m.number, m.moment, m.split, p.household_id
FROM cj_moments m JOIN cj_purchases p
  ON p.moment >= m.moment - INTERVAL {LATELY_DAYS} DAY AND p.moment < m.moment + INTERVAL {WINDOW_DAYS} DAY
GROUP BY ALL
HAVING count(*) FILTER (p.moment < m.moment) > 0 AND count(*) FILTER (p.moment >= m.moment) > 0
"""

_BEFORE = """
CREATE TABLE cj_before AS
SELECT r.number, r.household_id, p.product_id, count(DISTINCT p.basket_id) AS times_bought, max(p.moment) AS last_bought
FROM cj_requests r JOIN cj_purchases p ON p.household_id = r.household_id AND p.moment < r.moment
GROUP BY ALL
"""

# The share of the households seen in the 8 weeks before the moment that bought the product in them.
_LATELY = f"""
CREATE TABLE cj_lately AS
WITH lately AS (
    SELECT m.number, p.household_id, p.product_id FROM cj_moments m JOIN cj_purchases p
      ON p.moment < m.moment AND p.moment >= m.moment - INTERVAL {LATELY_DAYS} DAY
), seen AS (SELECT number, count(DISTINCT household_id) AS households FROM lately GROUP BY ALL)
SELECT number, product_id, count(DISTINCT household_id) / any_value(households) AS popularity
FROM lately JOIN seen USING (number) GROUP BY ALL
"""

_TAKEN = f"""
CREATE TABLE cj_taken AS
SELECT r.number, r.household_id, p.product_id, count(DISTINCT p.basket_id) AS baskets
FROM cj_requests r JOIN cj_purchases p
  ON p.household_id = r.household_id AND p.moment >= r.moment AND p.moment < r.moment + INTERVAL {WINDOW_DAYS} DAY
GROUP BY ALL
"""

# Draws by a hash, so that every machine draws alike: a place in the sum of purchases before the moment.
_DRAWN = f"""
CREATE TABLE cj_drawn AS
WITH sold AS (
    SELECT m.number, p.product_id, count(*) AS n
    FROM cj_moments m JOIN cj_purchases p ON p.moment < m.moment GROUP BY ALL
), lined AS (
    SELECT number, product_id, sum(n) OVER (PARTITION BY number ORDER BY product_id) - n AS begins FROM sold
), sums AS (SELECT number, sum(n) AS total FROM sold GROUP BY number),
draws AS (
    SELECT r.number, r.household_id, d.draw,
           floor(md5_number_lower(r.household_id || '-' || r.number || '-' || d.draw) / 18446744073709551616.0
                 * s.total) AS at
    FROM cj_requests r JOIN sums s USING (number), range({DRAWS}) AS d(draw)
), hit AS (
    SELECT d.number, d.household_id, l.product_id, min(d.draw) AS draw
    FROM draws d ASOF JOIN lined l ON l.number = d.number AND d.at >= l.begins GROUP BY ALL
)
SELECT number, household_id, product_id FROM hit
ANTI JOIN cj_taken USING (number, household_id, product_id)
QUALIFY row_number() OVER (PARTITION BY number, household_id ORDER BY draw) <= {NEGATIVES}
"""

_IMPRESSIONS = """
CREATE TABLE raw_impressions AS
WITH shown AS (
    SELECT number, household_id, product_id, 1 AS click, CAST(baskets > 1 AS INTEGER) AS conversion FROM cj_taken
    UNION ALL SELECT number, household_id, product_id, 0, 0 FROM cj_drawn
)
SELECT r.household_id || '-' || r.number AS request_id, r.moment AS timestamp,
       CAST(r.household_id AS VARCHAR) AS user_id, CAST(s.product_id AS VARCHAR) AS item_id,
       CAST(s.click AS TINYINT) AS click, CAST(s.conversion AS TINYINT) AS conversion, r.split,
       coalesce(b.times_bought, 0) AS times_bought,
       date_diff('second', b.last_bought, r.moment) / 86400.0 AS days_since_bought,
       coalesce(l.popularity, 0) AS popularity, k.baskets
FROM shown s
JOIN cj_requests r USING (number, household_id)
JOIN (SELECT number, household_id, count(DISTINCT basket_id) AS baskets
      FROM cj_requests r JOIN cj_purchases p USING (household_id) WHERE p.moment < r.moment GROUP BY ALL) k
  USING (number, household_id)
LEFT JOIN cj_before b USING (number, household_id, product_id)
LEFT JOIN cj_lately l USING (number, product_id)
"""

_EVENTS = """
CREATE VIEW raw_events AS
SELECT CAST(p.household_id AS VARCHAR) AS user_id, p.moment AS timestamp, CAST(p.product_id AS VARCHAR) AS item_id,
       'purchase' AS kind, i.title
FROM cj_purchases p JOIN raw_items i ON i.item_id = CAST(p.product_id AS VARCHAR)
"""

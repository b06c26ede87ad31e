"""DuckDB's own progress bar, which would stand beside ours."""

import duckdb


def hide_bar(con: duckdb.DuckDBPyConnection) -> None:
    """Let no query of the connection show a bar."""
    try:
        con.execute("SET enable_progress_bar = false")
    except duckdb.InvalidInputException:
        return  # in a notebook without ipywidgets there is none, and DuckDB refuses the setting

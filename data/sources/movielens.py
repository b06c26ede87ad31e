"""MovieLens 100K, 1M and 32M (GroupLens, for research): ratings as requests; which of the rated films were liked?

`data.file` is the unpacked folder. A request is a visit in which a user rated films, its candidates are these films; a
click is a rating of 4 or more, a conversion one of 5. What was shown but not rated is not known. The provider is the
decade of the film; groups are age, gender and occupation, of 32M the month of the first rating.
"""

from pathlib import Path

import duckdb

from equipoise.data.prepare.tables import Tables
from equipoise.data.sources.sessions import find_files, open_view, read_csv, tables_of, write_first_seen, write_requests

WHAT = "MovieLens"
GENRES = (
    *(
        "unknown",
        "Action",
        "Adventure",
        "Animation",
        "Children's",
        "Comedy",
        "Crime",
        "Documentary",
        "Drama",
        "Fantasy",
    ),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
"""The flags at the end of u.item, in their order."""
JOBS = (
    *(
        "other",
        "educator",
        "artist",
        "clerical",
        "student",
        "customer service",
        "doctor",
        "executive",
        "farmer",
        "homemaker",
    ),
    *("school student", "lawyer", "programmer", "retired", "sales", "scientist", "self-employed", "engineer"),
    *("craftsman", "unemployed", "writer"),
)
"""Occupations of 1M by their numbers."""
NOTES = ("Candidates are the films that a user rated in one visit: what was shown without a rating is not known.",)


def load(con: duckdb.DuckDBPyConnection, path: Path) -> Tables:
    """Create the raw tables from the files of one of the three editions.

    Raises:
        UserError: the folder holds none of them, or a file has other columns.
    """
    ratings = find_files(path, ("u.data", "ratings.dat", "ratings.csv"), WHAT)[:1]
    folder = ratings[0].parent
    {"u.data": _small, "ratings.dat": _million}.get(ratings[0].name, _large)(con, folder, ratings)
    con.execute("""
        CREATE VIEW seen AS
        SELECT user_id, make_timestamp(CAST(CAST(timestamp AS BIGINT) * 1000000 AS BIGINT)) AS timestamp, item_id,
               CAST(CAST(rating AS DOUBLE) >= 4 AS INTEGER) AS click, CAST(CAST(rating AS DOUBLE) >= 5
                      AS INTEGER) AS conversion
        FROM ml_ratings
    """)
    con.execute(r"""
        CREATE TABLE raw_items AS
        SELECT item_id, trim(regexp_replace(title, '\s*\((\d{4})\)\s*$', '')) AS title,
               lower(replace(genres, '|', ', ')) AS genres, lower(split_part(genres, '|', 1)) AS category,
               CASE WHEN year <> '' THEN substr(year, 1, 3) || '0s' END AS provider, nullif(year, '') AS year
        FROM (SELECT *, regexp_extract(title, '\((\d{4})\)\s*$', 1) AS year FROM ml_films)
    """)
    write_requests(con)
    if ratings[0].name == "ratings.csv":
        write_first_seen(con)
    return tables_of(con, "movielens", path, NOTES)


def _small(con: duckdb.DuckDBPyConnection, folder: Path, ratings: list[Path]) -> None:
    names = {"header": "false", "delim": "'\t'", "quote": "''", "escape": "''"}
    columns = "{'user_id': 'VARCHAR', 'item_id': 'VARCHAR', 'rating': 'VARCHAR', 'timestamp': 'VARCHAR'}"
    options = {**names, "columns": columns, "auto_detect": "false"}
    open_view(con, "ml_ratings", _plain(ratings, options), ("rating",), ratings, WHAT)
    flags = "".join(f", 'g{n}': 'VARCHAR'" for n in range(len(GENRES)))
    columns = (
        "{" + ", ".join(f"'{n}': 'VARCHAR'" for n in ("item_id", "title", "released", "video", "url")) + flags + "}"
    )
    options |= {"delim": "'|'", "columns": columns, "encoding": "'latin-1'"}
    films = find_files(folder, ("u.item",), WHAT)
    open_view(con, "ml_items", _plain(films, options), ("title",), films, WHAT)
    shown = ", ".join(
        f"CASE WHEN g{n} = '1' THEN '{name.replace(chr(39), chr(39) * 2)}' END" for n, name in enumerate(GENRES)
    )
    con.execute(f"CREATE VIEW ml_films AS SELECT item_id, title, concat_ws('|', {shown}) AS genres FROM ml_items")
    columns = "{'user_id': 'VARCHAR', 'age': 'VARCHAR', 'gender': 'VARCHAR', 'occupation': 'VARCHAR', 'zip': 'VARCHAR'}"
    users = find_files(folder, ("u.user",), WHAT)
    open_view(con, "ml_users", _plain(users, options | {"columns": columns}), ("age",), users, WHAT)
    con.execute("""
        CREATE TABLE raw_users AS SELECT user_id, CAST(CAST(age AS INTEGER) // 10 * 10 AS VARCHAR) || 's' AS age,
        CASE gender WHEN 'M' THEN 'male' WHEN 'F' THEN 'female' END AS gender, occupation FROM ml_users
    """)


def _million(con: duckdb.DuckDBPyConnection, folder: Path, ratings: list[Path]) -> None:
    options = {"header": "false", "delim": "'::'", "quote": "''", "escape": "''", "auto_detect": "false"}

    def view(name: str, files: list[Path], columns: tuple[str, ...]) -> None:
        kinds = "{" + ", ".join(f"'{column}': 'VARCHAR'" for column in columns) + "}"
        relation = _plain(files, options | {"columns": kinds, "encoding": "'latin-1'"})
        open_view(con, name, relation, columns, files, WHAT)

    view("ml_ratings", ratings, ("user_id", "item_id", "rating", "timestamp"))
    view("ml_films", find_files(folder, ("movies.dat",), WHAT), ("item_id", "title", "genres"))
    view("ml_users", find_files(folder, ("users.dat",), WHAT), ("user_id", "gender", "age", "occupation", "zip"))
    jobs = " ".join(f"WHEN '{number}' THEN '{job}'" for number, job in enumerate(JOBS))
    con.execute(f"""
        CREATE TABLE raw_users AS
        SELECT user_id, CASE age WHEN '1' THEN 'under 18' WHEN '18' THEN '18-24' WHEN '25' THEN '25-34'
               WHEN '35' THEN '35-44'
               WHEN '45' THEN '45-49' WHEN '50' THEN '50-55' WHEN '56' THEN '56 and more' END AS age,
               CASE gender WHEN 'M' THEN 'male' WHEN 'F' THEN 'female' END AS gender,
               CASE occupation {jobs} END AS occupation FROM ml_users
    """)


def _large(con: duckdb.DuckDBPyConnection, folder: Path, ratings: list[Path]) -> None:
    open_view(con, "ml_given", read_csv(ratings), ("userId", "movieId", "rating", "timestamp"), ratings, WHAT)
    con.execute(
        'CREATE VIEW ml_ratings AS SELECT "userId" AS user_id, "movieId" AS item_id, rating, timestamp FROM ml_given'
    )
    films = find_files(folder, ("movies.csv",), WHAT)
    open_view(con, "ml_movies", read_csv(films), ("movieId", "title", "genres"), films, WHAT)
    con.execute('CREATE VIEW ml_films AS SELECT "movieId" AS item_id, title, genres FROM ml_movies')


def _plain(files: list[Path], options: dict[str, str]) -> str:
    """Files without a header, whose columns are given."""
    places = ", ".join(f"'{str(file).replace(chr(39), chr(39) * 2)}'" for file in files)
    return f"read_csv([{places}], {', '.join(f'{name}={value}' for name, value in options.items())})"

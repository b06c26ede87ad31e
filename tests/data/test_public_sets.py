"""Public sets, on made-up rows in their original formats: labels, visits, providers, groups, and nothing later."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from equipoise.common.errors import UserError
from equipoise.configs.schema import DataConfig
from equipoise.data.prepare.slates import FILE_SOURCES, prepare

HOUR, DAY = 3600, 86400
START = 1_560_000_000


def _lines(path: Path, rows: list[list[Any]], sep: str = ",", encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(sep.join("" if v is None else str(v) for v in row) + "\n" for row in rows)
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def _ratings() -> list[tuple[int, int, int, int]]:
    """user, film, rating, moment: 12 users with 5 visits of 4 films."""
    return [
        (u, 1 + (u + 3 * v + n) % 9, 1 + (u * n + v) % 5, START + v * 7 * DAY + u * HOUR + 60 * n)
        for u in range(1, 13) for v in range(5) for n in range(4)
    ]  # fmt: skip


def movielens_100k(folder: Path) -> None:
    _lines(folder / "u.data", [[u, i, r, t] for u, i, r, t in _ratings()], "\t")
    films = [
        [
            n,
            f"Café {n} (19{55 + n})",
            "01-Jan-1995",
            "",
            "http://x",
            *("1" if g in (5, 5 + n % 3) else "0" for g in range(19)),
        ]
        for n in range(1, 10)
    ]
    _lines(folder / "u.item", films, "|", "latin-1")
    _lines(folder / "u.user", [[u, 20 + u, "MF"[u % 2], "writer", "12345"] for u in range(1, 13)], "|")


def movielens_1m(folder: Path) -> None:
    _lines(folder / "ratings.dat", [[u, i, r, t] for u, i, r, t in _ratings()], "::")
    _lines(
        folder / "movies.dat", [[n, f"Café, {n} (19{55 + n})", "Comedy|Crime"] for n in range(1, 10)], "::", "latin-1"
    )
    _lines(folder / "users.dat", [[u, "MF"[u % 2], (1, 18, 56)[u % 3], u, "1"] for u in range(1, 13)], "::")


def movielens_32m(folder: Path) -> None:
    _lines(
        folder / "ratings.csv",
        [["userId", "movieId", "rating", "timestamp"], *([u, i, r + 0.0, t] for u, i, r, t in _ratings())],
    )
    films = [[n, f'"Café, {n} (19{55 + n})"', "Comedy|Crime"] for n in range(1, 10)]
    _lines(folder / "movies.csv", [["movieId", "title", "genres"], *films])


def kuairand(folder: Path) -> None:
    head = [
        "user_id",
        "video_id",
        "date",
        "hourmin",
        "time_ms",
        "is_click",
        "is_like",
        "long_view",
        "play_time_ms",
        "tab",
    ]
    rows = [[u, i, 20220408, 1200, t * 1000, int(r >= 4), 0, int(r == 5), 9, 1] for u, i, r, t in _ratings()]
    _lines(folder / "data" / "log_standard_4_08_to_4_21_pure.csv", [head, *rows[:100]])
    _lines(folder / "data" / "log_standard_4_22_to_5_08_pure.csv", [head, *rows[100:]])
    videos = [
        [n, n, "NORMAL", "2022-01-01", ("LongImport", "ShortCamera")[n % 2], 9000 * n, '"3,9"'] for n in range(1, 10)
    ]
    names = ["video_id", "author_id", "video_type", "upload_dt", "upload_type", "video_duration", "tag"]
    _lines(folder / "data" / "video_features_basic_pure.csv", [names, *videos])
    users = [[u, ("full_active", "high_active")[u % 2], "61-90"] for u in range(1, 13)]
    _lines(
        folder / "data" / "user_features_pure.csv", [["user_id", "user_active_degree", "register_days_range"], *users]
    )


def ali_ccp(folder: Path) -> None:
    def features(**fields: Any) -> str:
        return "\x01".join(f"{name[1:]}\x02{value}\x031.0" for name, value in fields.items())

    number = 0
    for part, users in (("train", range(1, 9)), ("test", range(9, 13))):
        samples, common = [], []
        for u, i, r, _ in [row for row in _ratings() if row[0] in users]:
            number += 1
            click = int(r >= 4)
            samples.append(
                [
                    number,
                    click,
                    click * int(r == 5),
                    f"c{u}x{r}",
                    4,
                    features(f205=i, f206=i % 3, f207=i % 2, f216=i % 4),
                ]
            )
            common.append([f"c{u}x{r}", 3, features(f101=u, f124=u % 2, f125=u % 5, f126=1, f129=2)])
        _lines(folder / f"sample_skeleton_{part}.csv", samples)
        _lines(folder / f"common_features_{part}.csv", sorted(set(map(tuple, common))))  # type: ignore[arg-type]


def amazon_reviews(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    reviews = [
        {"rating": float(r), "title": "x", "text": "y", "images": [], "asin": f"A{i}", "parent_asin": f"P{i}",
         "user_id": f"U{u}", "timestamp": (t + u) * 1000, "helpful_vote": 0, "verified_purchase": True}
        for u, i, r, t in _ratings()
    ]  # fmt: skip
    products = [
        {"main_category": "All Beauty", "title": f"Soap {n}", "price": 3.5 if n % 2 else None, "store": f"S{n % 2}",
         "categories": ["Beauty", "Soap"] if n % 2 else [], "parent_asin": f"P{n}", "details": {}}
        for n in range(1, 10)
    ]  # fmt: skip
    with gzip.open(folder / "All_Beauty.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in reviews)
    (folder / "meta_All_Beauty.jsonl").write_text("".join(json.dumps(row) + "\n" for row in products))


def rees46(folder: Path) -> None:
    head = [
        "event_time",
        "event_type",
        "product_id",
        "category_id",
        "category_code",
        "brand",
        "price",
        "user_id",
        "user_session",
    ]
    rows = []
    with duckdb.connect() as con:
        for u, i, r, t in _ratings():
            moment = con.execute(
                "SELECT strftime(make_timestamp(?::BIGINT * 1000000), '%Y-%m-%d %H:%M:%S UTC')", [t]
            ).fetchone()
            code, brand = ("electronics.audio_set" if i % 2 else "", f"b{i % 3}" if i % 3 else "")
            seen = [moment[0], "view", i, 7, code, brand, 9.5 * i, u, f"s{u}-{(t - START) // DAY}"]  # type: ignore[index]
            rows += (
                [seen]
                + ([[*seen[:1], "cart", *seen[2:]]] if r >= 4 else [])
                + ([[*seen[:1], "purchase", *seen[2:]]] if r == 5 else [])
            )
    _lines(folder / "2019-Oct.csv.gz", [head, *rows])


def criteo_attribution(folder: Path) -> None:
    head = ["timestamp", "uid", "campaign", "conversion", "conversion_timestamp", "conversion_id", "attribution",
            "click", "click_pos", "click_nb", "cost", "cpo", "time_since_last_click",
            *(f"cat{n}" for n in range(1, 10))]  # fmt: skip
    rows = [
        [
            t - START,
            u,
            i,
            int(r == 5),
            -1,
            -1,
            int(r == 5),
            int(r >= 4),
            -1,
            -1,
            0.01 * r,
            0.2,
            (-1, 50)[u % 2],
            i % 3,
            *range(8),
        ]
        for u, i, r, t in _ratings()
    ]
    _lines(folder / "criteo_attribution_dataset.tsv.gz", [head, *rows], "\t")


def retailrocket(folder: Path) -> None:
    rows = []
    for u, i, r, t in _ratings():
        rows += [
            [t * 1000, u, event, i, ""]
            for event in ("view", *(("addtocart",) if r >= 4 else ()), *(("transaction",) if r == 5 else ()))
        ]
    _lines(folder / "events.csv", [["timestamp", "visitorid", "event", "itemid", "transactionid"], *rows])
    late = [[(START + 99 * DAY) * 1000, n, "categoryid", 500] for n in range(1, 9)]
    early = [[(START - DAY) * 1000, n, "categoryid", 100 + n % 2] for n in range(1, 9)]
    _lines(folder / "item_properties_part1.csv", [["timestamp", "itemid", "property", "value"], *late])
    _lines(
        folder / "item_properties_part2.csv",
        [["timestamp", "itemid", "property", "value"], *early, [1, 1, "790", "n1.000"]],
    )
    _lines(folder / "category_tree.csv", [["categoryid", "parentid"], [100, 7], [101, 8], [7, ""]])


SETS: dict[str, tuple[str, Callable[[Path], None], list[str]]] = {
    "movielens_100k": ("movielens", movielens_100k, ["age", "gender"]),
    "movielens_1m": ("movielens", movielens_1m, ["age", "gender"]),
    "movielens_32m": ("movielens", movielens_32m, ["since"]),
    "kuairand": ("kuairand", kuairand, ["activity"]),
    "ali_ccp": ("ali_ccp", ali_ccp, ["gender", "age"]),
    "amazon_reviews": ("amazon_reviews", amazon_reviews, ["since"]),
    "rees46": ("rees46", rees46, ["since"]),
    "criteo_attribution": ("criteo_attribution", criteo_attribution, ["known"]),
    "retailrocket": ("retailrocket", retailrocket, ["since"]),
}


def _config(tmp_path: Path, name: str) -> DataConfig:
    source, write, groups = SETS[name]
    write(tmp_path / "given")
    prompt = {"item": ["{title}", "{category}", "{provider}"], "prefix": [f"{groups[0]} {{{groups[0]}}}"]}
    given: Any = {"folder": tmp_path / "prepared", "source": source, "file": tmp_path / "given"}
    return DataConfig(**given, prompt=prompt, user_groups=groups)


@pytest.mark.parametrize("name", SETS)
def test_it_becomes_slates(tmp_path: Path, name: str) -> None:
    config = _config(tmp_path, name)
    manifest = prepare(config)
    files = [config.folder / file for split in manifest.splits.values() for file in split.files]
    slates = pa.concat_tables([pq.read_table(file) for file in files]).to_pylist()
    items = pq.read_table(config.folder / "items.parquet").to_pylist()
    assert manifest.source == SETS[name][0]
    labels = [(k, v) for slate in slates for k, v in zip(slate["click"], slate["conversion"], strict=True)]
    assert {(0, 0), (1, 0), (1, 1)} == set(labels)
    assert len({item["provider"] for item in items if item["provider"]}) >= 2 and all(item["text"] for item in items)
    assert all(slate[f"user_{group}"] for slate in slates for group in SETS[name][2])
    if name not in ("ali_ccp", "amazon_reviews"):
        assert len(slates) == 60 and all(len(slate["item"]) == 4 for slate in slates)  # visits of four things
        shown = {(u, i, r) for u, i, r, _ in _ratings()}
        assert sum(k for k, _ in labels) == sum(r >= 4 for _, _, r, _ in _ratings()) and len(shown) > 100
    if name != "ali_ccp":
        assert any("bought before" in slate["prefix"] for slate in slates)


def test_a_history_and_drawn_candidates_are_strictly_earlier(tmp_path: Path) -> None:
    config = _config(tmp_path, "amazon_reviews")
    assert config.file is not None
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        tables = FILE_SOURCES["amazon_reviews"](con, config.file)
        assert tables.notes
        late = con.execute("""
            SELECT count(*) FROM raw_impressions i WHERE click = 0
            AND NOT EXISTS (SELECT 1 FROM raw_events e WHERE e.item_id = i.item_id AND e.timestamp < i.timestamp)
        """).fetchone()
        repeated = con.execute(
            "SELECT count(*) - count(DISTINCT (request_id, item_id)) FROM raw_impressions"
        ).fetchone()
        drawn = con.execute("SELECT count(*) FROM raw_impressions WHERE click = 0").fetchone()
    assert late == (0,) and repeated == (0,) and drawn is not None and drawn[0] > 200


def test_words_of_the_original_files(tmp_path: Path) -> None:
    def items(name: str) -> list[dict[str, Any]]:
        config = _config(tmp_path / name, name)
        prepare(config)
        return pq.read_table(config.folder / "items.parquet").to_pylist()

    for name, title in (("movielens_100k", "Café 1"), ("movielens_1m", "Café, 1"), ("movielens_32m", "Café, 1")):
        film = next(item for item in items(name) if item["item_id"] == "1")
        assert (film["title"], film["provider"], film["year"], film["category"]) == (
            title,
            "1950s",
            "1956",
            film["category"],
        )
    rocket = {item["item_id"]: item for item in items("retailrocket")}
    assert rocket["1"]["title"] == "item of category 101 below 8" and rocket["9"]["title"] == "item of category unknown"


def test_other_files_are_refused(tmp_path: Path) -> None:
    for source in FILE_SOURCES:
        gone = DataConfig(folder=tmp_path / "p", source=source, file=tmp_path / "gone")  # type: ignore[arg-type]
        with pytest.raises(UserError, match="gone"):
            prepare(gone)
        (tmp_path / source).mkdir()
        if source != "online_retail":
            empty = DataConfig(folder=tmp_path / "p", source=source, file=tmp_path / source)  # type: ignore[arg-type]
            with pytest.raises(UserError, match="name the folder of the downloaded"):
                prepare(empty)
    _lines(tmp_path / "rees46" / "x.csv", [["a", "b"], [1, 2]])
    wrong = DataConfig(folder=tmp_path / "p", source="rees46", file=tmp_path / "rees46")
    with pytest.raises(UserError, match="has no column 'event_time', so it is not REES46"):
        prepare(wrong)
    assert not (tmp_path / "p").exists()

"""Histories: strictly before the request, distinct titles, one order only — in SQL and in Python alike."""

from datetime import datetime, timedelta

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.configs.schema import HistoryConfig
from equipoise.data.prepare import history
from equipoise.data.prepare.history import write_histories
from equipoise.data.prepare.tables import Tables
from tests.history_reference import titles_before

START = datetime(2024, 1, 1)
MOMENTS = st.integers(0, 6).map(lambda hours: START + timedelta(hours=hours))
EVENTS = st.lists(
    st.tuples(st.sampled_from("xyz"), MOMENTS, st.sampled_from(["tea", "jam", "oat", "rye"])), max_size=25
)
REQUESTS = st.lists(st.tuples(st.sampled_from("xyz"), MOMENTS), min_size=1, max_size=6)


def histories(events: list, requests: list, config: HistoryConfig) -> list[list[str]]:
    """The titles that the SQL writes for each request."""
    with duckdb.connect() as con:
        users, stamps, titles = zip(*events, strict=True) if events else ((), (), ())
        moment = pa.timestamp("us")
        given_events = pa.table(
            {"user_id": pa.array(users, pa.string()), "timestamp": pa.array(stamps, moment),
             "item_id": pa.array(titles, pa.string()), "title": pa.array(titles, pa.string())}
        )  # fmt: skip
        asked = pa.table(
            {"ordinal": range(len(requests)), "user_id": [user for user, _ in requests],
             "timestamp": pa.array([stamp for _, stamp in requests], moment)}
        )  # fmt: skip
        con.register("given_events", given_events)
        con.register("asked", asked)
        con.execute("CREATE TABLE events AS FROM given_events")
        con.execute("CREATE VIEW raw_events AS FROM events")
        con.execute("CREATE TABLE requests AS FROM asked")
        write_histories(Tables(con, "tables", {"events": "events.csv"}), config)
        found = dict(con.execute("SELECT ordinal, titles FROM histories").fetchall())
    return [found.get(number, []) for number in range(len(requests))]


@settings(max_examples=40)
@given(
    EVENTS,
    REQUESTS,
    st.sampled_from(["recent", "frequent"]),
    st.integers(1, 3),
    st.sampled_from([1, 20_000_000]),
    st.sampled_from([None, 1, 2, 4]),
)
def test_sql_and_python_agree(
    events: list, requests: list, order: str, longest: int, pairs: int, latest: int | None
) -> None:
    config = HistoryConfig(order=order, max_events=longest, latest=latest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "MAX_PAIRS", pairs)
        told = histories(events, requests, config)
    for (user, moment), titles in zip(requests, told, strict=True):
        past = [(stamp, title) for other, stamp, title in events if other == user and stamp < moment]
        assert titles == titles_before(past, moment, config)
        assert set(titles) <= {title for _, title in past}
        if latest is None:
            assert len(titles) == min(longest, len({title for _, title in past}))


@settings(max_examples=40)
@given(EVENTS, REQUESTS, EVENTS)
def test_what_happens_at_or_after_the_request_changes_nothing(events: list, requests: list, later: list) -> None:
    end = max(moment for _, moment in requests)
    shifted = [(user, end + (stamp - START), title) for user, stamp, title in later]
    config = HistoryConfig(order="frequent", max_events=3)
    assert histories(events, requests, config) == histories(events + shifted, requests, config)


def test_orders_by_hand() -> None:
    hours = [START + timedelta(hours=hour) for hour in range(5)]
    events = [(hours[0], "tea"), (hours[1], "tea"), (hours[2], "jam"), (hours[3], "oat"), (hours[4], "rye")]
    recent, frequent = HistoryConfig(order="recent", max_events=2), HistoryConfig(order="frequent", max_events=2)
    assert titles_before(events, hours[4], recent) == ["oat", "jam"]
    assert titles_before(events, hours[4], frequent) == ["tea", "oat"]
    assert titles_before(events, hours[0], recent) == []
    assert titles_before(events, hours[4], frequent.model_copy(update={"latest": 1})) == ["oat"]

"""The history of one user in plain Python: the second opinion on what `prepare` does set-wise in DuckDB."""

from collections.abc import Iterable
from datetime import datetime

from equipoise.configs.schema import HistoryConfig


def titles_before(events: Iterable[tuple[datetime, str]], moment: datetime, config: HistoryConfig) -> list[str]:
    """The titles included at `moment` for one user's (timestamp, title) events: distinct, before it, best first."""
    latest: dict[str, datetime] = {}
    times: dict[str, int] = {}
    past = [(stamp, title.strip()) for stamp, title in events if stamp < moment and title.strip()]
    past.sort(key=lambda event: event[1])
    past.sort(key=lambda event: event[0], reverse=True)
    for stamp, title in past[: config.latest]:
        latest[title] = max(stamp, latest.get(title, stamp))
        times[title] = times.get(title, 0) + 1
    by_title = sorted(times)
    if config.order == "recent":
        ranked = sorted(by_title, key=lambda title: (latest[title], times[title]), reverse=True)
    else:
        ranked = sorted(by_title, key=lambda title: (times[title], latest[title]), reverse=True)
    return ranked[: config.max_events]

"""Co-purchase columns of impressions: which things the same shoppers took, counted strictly before each request.

A shopper takes a thing at its first event; a pair counts from the moment on when both are taken. Counts are kept as
sorted keys low · T + high, a thing alone being the pair with itself, and move on in blocks of time; within a block, a
request sees the pairs of earlier moments by their rank.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import duckdb
import numpy as np

from equipoise.configs.priors import ComparisonConfig
from equipoise.data.prepare.tables import one
from equipoise.data.ragged import run_indices
from equipoise.data.thing_columns import CoPurchase, left_out, lift, pool

PAIRED_WITH = 512
"""A new thing is paired with so many of its shopper's things at most, the latest ones: histories have no end."""
BLOCK = 4_000_000
"""Pairs and look-ups of a block of time, at about 100 bytes each; a single moment may have more."""
BLOCKS = 256
"""Blocks at most, since each copies all counts."""
HALF_LIVES = 20
"""Half-lives that a block spans at most, so that weights keep their digits."""
MOST_HALF_LIVES = 100.0
"""What is older counts as this old: float32 holds no more."""

DAY = 86_400_000_000
"""Microseconds."""


@dataclass(frozen=True)
class _Takings:
    """The first events of shoppers with things, ordered by shopper and time.

    Attributes:
        thing: int32 (K,).
        moment: int64 (K,), microseconds.
        position: int64 (K,), how many things its shopper had taken before.
        by_time: int64 (K,), the order by moment.
    """

    thing: np.ndarray
    moment: np.ndarray
    position: np.ndarray
    by_time: np.ndarray

    @classmethod
    def read(cls, con: duckdb.DuckDBPyConnection) -> "_Takings":
        columns = con.execute("""
            SELECT thing, epoch_us(moment) AS moment,
                   row_number() OVER (PARTITION BY user_id ORDER BY moment, thing) - 1 AS position
            FROM (SELECT user_id, thing, min(timestamp) AS moment FROM thing_events GROUP BY user_id, thing)
            ORDER BY user_id, position
        """).fetchnumpy()
        moment = np.asarray(columns["moment"], dtype=np.int64)
        thing, position = (np.asarray(columns[name], dtype=np.int64) for name in ("thing", "position"))
        return cls(thing.astype(np.int32), moment, position, np.argsort(moment, kind="stable"))

    def between(self, low: int, high: int) -> np.ndarray:
        """The takings of moments low … high-1, in the order of time."""
        first, stop = np.searchsorted(self.moment, [low, high], sorter=self.by_time)
        return self.by_time[first:stop]

    def pairs(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of takings: which of them, its thing and the other thing (at last itself) of each pair that it completes."""
        before = np.minimum(self.position[chosen], PAIRED_WITH)
        which = np.repeat(np.arange(len(chosen)), before + 1)
        partner = run_indices(chosen - before, before + 1)
        return which, self.thing[chosen][which].astype(np.int64), self.thing[partner].astype(np.int64)


class _Counts:
    """Counts of pairs before the present block, and the pairs within it.

    Attributes:
        keys, counts: int64 and float32 (P,), ascending keys, counts as of the moment `since`.
    """

    def __init__(self, things: int, half_life: float | None, before: CoPurchase | None = None) -> None:
        self.things, self.half_life, self.since = things, half_life, 0
        self.keys, self.counts = np.zeros(0, np.int64), np.zeros(0, np.float32)
        if before is not None and before.until:
            self.since = _microseconds(before.until)
            low, high = np.divmod(before.pairs_P, max(len(before.alone_T), 1))
            own = np.flatnonzero(before.alone_T)
            keys = np.concatenate([low * things + high, own * things + own])
            order = np.argsort(keys)
            self.keys = keys[order]
            self.counts = np.concatenate([before.both_P, before.alone_T[own]])[order]

    def _key(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.minimum(one, other).astype(np.int64) * self.things + np.maximum(one, other)

    def _growth(self, moment: np.ndarray) -> np.ndarray:
        """2 to the half-lives since the block began, float64: by it a later pair weighs more than those before."""
        if self.half_life is None:
            return np.ones(np.shape(moment))
        return np.exp2(np.minimum((np.asarray(moment, np.float64) - self.since) / self.half_life, MOST_HALF_LIVES))

    def begin(self, since: int, takings: _Takings, chosen: np.ndarray) -> None:
        """Begin a block at a moment; `chosen` are its takings."""
        if self.half_life is not None and len(self.counts):
            self.counts = (self.counts / self._growth(np.array(since))).astype(np.float32)
        self.since = since
        which, thing, other = takings.pairs(chosen)
        self.moments = np.unique(takings.moment[chosen])
        rank = np.searchsorted(self.moments, takings.moment[chosen])
        self.ranks = len(self.moments) + 1
        placed = self._key(thing, other) * self.ranks + rank[which]
        order = np.argsort(placed, kind="stable")
        self.placed = placed[order]
        weights = self._growth(takings.moment[chosen])[which][order]
        self.running = np.concatenate([[0.0], np.cumsum(weights)])

    def at(self, thing: np.ndarray, other: np.ndarray, moment: np.ndarray) -> np.ndarray:
        """Counts of pairs strictly before each moment of the block, float32 (Q,)."""
        keys = self._key(thing, other)
        order = np.argsort(keys)  # searches in order stay in the processor's cache
        keys, moment = keys[order], moment[order]
        total = np.zeros(len(keys))
        if len(self.keys):
            index = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
            total += np.where(self.keys[index] == keys, self.counts[index], 0.0)
        if len(self.placed):
            first = np.searchsorted(self.placed, keys * self.ranks)
            stop = np.searchsorted(self.placed, keys * self.ranks + np.searchsorted(self.moments, moment))
            total += self.running[stop] - self.running[first]
        found = np.empty(len(keys), np.float32)
        found[order] = total / self._growth(moment)
        return found

    def end(self) -> None:
        """Add the pairs of the block to the counts."""
        if not len(self.placed):
            return
        keys = self.placed // self.ranks
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        sums = np.diff(self.running[np.append(starts, len(keys))]).astype(np.float32)
        keys = keys[starts]
        index = np.searchsorted(self.keys, keys)
        known = np.zeros(len(keys), bool)
        inside = index < len(self.keys)
        known[inside] = self.keys[index[inside]] == keys[inside]
        self.counts[index[known]] += sums[known]
        self.keys = np.insert(self.keys, index[~known], keys[~known])
        self.counts = np.insert(self.counts, index[~known], sums[~known])

    def finish(self, until: int) -> CoPurchase:
        """All counts as of a moment, that of the last event."""
        counts = (self.counts / self._growth(np.array(until))).astype(np.float32)
        low, high = np.divmod(self.keys, max(self.things, 1))
        alone = np.zeros(self.things, np.float32)
        alone[low[low == high]] = counts[low == high]
        iso = str(np.datetime64(until, "us"))
        return CoPurchase(self.keys[low != high], counts[low != high], alone, iso)


def co_purchase_columns(
    con: duckdb.DuckDBPyConnection,
    config: ComparisonConfig,
    columns_I3: np.ndarray,
    on_progress: Callable[[str, float], None],
    before: CoPurchase | None = None,
) -> CoPurchase:
    """Fill the columns TOGETHER of all impressions, and return the counts after all events.

    Reads thing_events, slate_things, things, item_things, requests and sorted_impressions.

    Args:
        con: of the tables.
        config: of the comparison.
        columns_I3: float32 (I, 3) in the order of sorted_impressions, filled with NaN; may be a mapped file.
        on_progress: called with the stage and the fraction done.
        before: counts that these events follow, by the same numbers of things; those until then are counted already.
    """
    takings = _Takings.read(con)
    things = one(con, "SELECT count(*) FROM things")[0]
    half_life = None if config.half_life_days is None else config.half_life_days * DAY
    counts = _Counts(things, half_life, before)
    counted = _microseconds(before.until) if before is not None and before.until else None
    blocks = list(_blocks(con, takings, things, half_life, counted))
    for number, (low, high) in enumerate(blocks):
        counts.begin(low, takings, takings.between(low, high))
        for lookups in _lookups(con, low, high):
            columns_I3[lookups.index] = lookups.columns(counts)
        counts.end()
        on_progress("counting what shoppers took together", (number + 1) / len(blocks))
    last = one(con, "SELECT coalesce(epoch_us(max(timestamp)), 0) FROM thing_events")[0]
    return counts.finish(max(last, counted or 0))


def _microseconds(until: str) -> int:
    return int(np.datetime64(until, "us").astype(np.int64))


def new_things(con: duckdb.DuckDBPyConnection) -> np.ndarray:
    """The impressions that are shown as of a new item whose thing no other known item has: int64, among all."""
    rows = con.execute("""
        SELECT i.sort_index - 1 AS index
        FROM sorted_impressions i JOIN item_numbers n ON n.item_index = i.item JOIN item_things t USING (item_id)
        WHERE i.new AND NOT EXISTS (
            SELECT 1 FROM item_things o WHERE o.thing_index = t.thing_index AND o.item_id <> n.item_id
            AND o.item_id NOT IN (FROM held_out_items)
        ) ORDER BY 1
    """).fetchnumpy()
    return np.asarray(rows["index"], dtype=np.int64)


def _blocks(
    con: duckdb.DuckDBPyConnection, takings: _Takings, things: int, half_life: float | None, counted: int | None
) -> Iterator[tuple[int, int]]:
    """Ranges of moments, low … high-1, that together hold all takings and requests after the moment `counted`."""
    lookups = con.execute("""
        SELECT epoch_us(r.timestamp) AS moment, CAST(sum(array_length(s.things) * i.size) AS BIGINT) AS size
        FROM requests r JOIN slate_things s USING (ordinal)
        JOIN (SELECT ordinal, count(*) AS size FROM sorted_impressions GROUP BY ordinal) i USING (ordinal) GROUP BY 1
    """).fetchnumpy()
    asked = np.asarray(lookups["moment"], dtype=np.int64)
    every = np.concatenate([takings.moment, asked])
    sizes = np.concatenate([np.minimum(takings.position, PAIRED_WITH) + 1, np.asarray(lookups["size"])])
    new = slice(None) if counted is None else every > counted
    moments, code = np.unique(every[new], return_inverse=True)
    if not len(moments):
        return
    cost = np.bincount(code, sizes[new].astype(np.float64))
    # Keys times ranks must fit into 63 bits.
    longest = max(2**62 // max(things, 1) ** 2, 1)
    number = (np.cumsum(cost) - cost) // max(BLOCK, cost.sum() / BLOCKS)
    parts = [number, np.arange(len(moments)) // longest]
    if half_life is not None:
        parts.append((moments - moments[0]) // (HALF_LIVES * half_life))
    changed = np.zeros(len(moments), bool)
    for part in parts:
        changed[1:] |= part[1:] != part[:-1]
    starts = moments[np.flatnonzero(changed)].tolist()
    yield from zip([int(moments[0]), *starts], [*starts, int(moments[-1]) + 1], strict=True)


@dataclass(frozen=True)
class _Lookups:
    """Impressions of requests that have a history.

    Attributes:
        index: int64 (N,), of each impression among all.
        candidate: int64 (N,), its thing, −1 where it has none.
        owner: int64 (N,), its request among these.
        history: int64 (R, H), −1 padding.
        moment: int64 (R,), microseconds.
    """

    index: np.ndarray
    candidate: np.ndarray
    owner: np.ndarray
    history: np.ndarray
    moment: np.ndarray

    def columns(self, counts: _Counts) -> np.ndarray:
        """The columns TOGETHER, float32 (N, 3)."""
        history_NH, moment_N = self.history[self.owner], self.moment[self.owner]
        hidden_NH = left_out(history_NH, self.candidate)
        row, column = np.nonzero(~hidden_NH)
        both = counts.at(history_NH[row, column], self.candidate[row], moment_N[row])
        times = np.repeat(self.moment, self.history.shape[1])
        taken_RH = counts.at(self.history.ravel(), self.history.ravel(), times).reshape(self.history.shape)
        alone_N = counts.at(self.candidate, self.candidate, moment_N)
        lifts_NH = np.zeros(hidden_NH.shape, np.float32)
        lifts_NH[row, column] = lift(both, taken_RH[self.owner[row], column], alone_N[row])
        return pool(lifts_NH, hidden_NH, 5)


def _lookups(con: duckdb.DuckDBPyConnection, low: int, high: int) -> Iterator[_Lookups]:
    """The impressions of requests at moments low … high-1 that have a history, in parts."""
    within = f"epoch_us(r.timestamp) >= {low} AND epoch_us(r.timestamp) < {high}"
    requests = con.sql(f"""
        SELECT r.ordinal, epoch_us(r.timestamp) AS moment, s.things
        FROM requests r JOIN slate_things s USING (ordinal) WHERE {within} ORDER BY r.ordinal
    """).to_arrow_table()
    if not requests.num_rows:
        return
    rows = con.execute(f"""
        SELECT i.ordinal, i.sort_index - 1 AS index, coalesce(t.thing_index, -1) AS thing
        FROM sorted_impressions i JOIN requests r USING (ordinal) SEMI JOIN slate_things s ON s.ordinal = i.ordinal
        JOIN item_numbers n ON n.item_index = i.item LEFT JOIN item_things t ON t.item_id = n.item_id
        WHERE {within} ORDER BY i.ordinal, i.sort_index
    """).fetchnumpy()
    lists = requests.column("things").combine_chunks()
    lengths = np.diff(lists.offsets.to_numpy())
    history = np.full((len(lengths), int(lengths.max())), -1, np.int64)
    history[np.arange(history.shape[1]) < lengths[:, None]] = lists.flatten().to_numpy(zero_copy_only=False)
    moment = requests.column("moment").to_numpy()
    owner = np.searchsorted(requests.column("ordinal").to_numpy(), np.asarray(rows["ordinal"]))
    index, thing = (np.asarray(rows[name], dtype=np.int64) for name in ("index", "thing"))
    step = max(1, BLOCK // history.shape[1])
    for begin in range(0, len(index), step):
        part = slice(begin, begin + step)
        first, last = owner[begin], owner[part][-1] + 1
        yield _Lookups(index[part], thing[part], owner[part] - first, history[first:last], moment[first:last])

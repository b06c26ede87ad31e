"""What recall knows beside the backbone's vectors: popularity, what was bought, what is bought together, titles alike.

s(u, i) = popularity_i + Σ_k w_k · f_k(u, i) + ⟨q_u, p_i⟩. The f_k of what an item has nothing of are 0, so that a
shopper's own terms touch few items; q_u is the mean of learned projections of the frozen vectors of what u bought.
Item-item cosines: Sarwar et al. (WWW 2001); the mix is a softmax regression over the catalogue.

Shape suffixes: I items, T items that a shopper's terms touch, K columns of these, Q width of projections.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.common.sealed import refuse_changed, seal
from equipoise.data.ragged import Ragged

COLUMNS = {
    "bought": (
        *("bought", "bought_2", "bought_3", "bought_5", "bought_9", "log_times", "log_share"),
        # What was bought before is bought again for other reasons than new items are bought.
        *("bought_lately", "bought_together", "bought_together_share", "bought_alike"),
    ),
    "co_purchase": ("together", "together_share"),
    "titles": ("alike",),
}
"""The columns of a shopper's own terms, by source."""
NAMES = [name for names in COLUMNS.values() for name in names]
POPULARITY = ("log_popularity", "log_lately")
SOURCES = ("popularity", *COLUMNS, "history_vectors", "vectors")
"""What a score is a sum of, in the order in which explanations name it."""
TIMES = (1, 2, 3, 5, 9)
LEAST_TOGETHER = 2
"""Requests in which two items must meet: most of those that met once met by chance."""
LITTLE = {"together": 0.05, "together_share": 0.002, "alike": 0.02}
"""Where the logarithm of a sum of similarities begins to grow: log(1 + sum / LITTLE)."""
NEAREST = 50
"""Nearest titles that are kept of each item."""
SHARPNESS = 20.0
"""An item whose title has cosine c with a bought one counts exp(SHARPNESS · (c − 1))."""
EXACT_UP_TO, PROBES = 200_000, 48
"""Items up to which each title is held against all others; above, lists that FAISS looks into for each."""
BLOCK = 1 << 24
"""Similarities that are held at once."""
FILE, ARRAYS, TOGETHER, ALIKE = "sources.json", "sources.npz", "together.npz", "alike.npz"


@dataclass(frozen=True)
class Counts:
    """What is counted in purchases; it can be counted again without any training.

    Attributes:
        popularity: float32 (2, I), log of each item's share of all purchases, and of the late ones (POPULARITY).
        together: float32 (I, I), cosines of items that met in LEAST_TOGETHER requests or more: of each row, without its
            own, those that met most often.
        bought: bool (I,), whether anybody took the item.
    """

    popularity: np.ndarray
    together: sparse.csr_array
    bought: np.ndarray

    @classmethod
    def of(cls, taken: Ragged, age_days: np.ndarray, items: int, half_life_days: float, neighbours: int) -> "Counts":
        """Count.

        Args:
            taken: item numbers of each request, each at most once.
            age_days: float (requests,), how long before the moment of counting each was.
            items: I.
            half_life_days: after which a purchase counts half in `log_lately`.
            neighbours: items that are kept of each row.
        """
        ones = np.ones(len(taken.values), np.float32)
        requests = sparse.csr_array((ones, np.asarray(taken.values), np.asarray(taken.offsets)), (len(taken), items))
        weight = (0.5 ** (np.asarray(age_days, np.float64) / half_life_days)).astype(np.float32)
        total = np.asarray(requests.sum(axis=0)).ravel()
        lately = np.asarray(requests.T @ weight).ravel()
        popularity = np.stack([np.log(each / each.sum()) for each in (total + 0.5, lately + 0.1)])
        return cls(popularity.astype(np.float32), _together(requests, total, neighbours), total > 0)


def _together(requests: sparse.csr_array, total: np.ndarray, most: int) -> sparse.csr_array:
    """`Counts.together` of ones (requests, I), of which item i has total[i]."""
    across = requests.T.tocsr()
    size, length = len(total), np.sqrt(np.maximum(total, 1.0)).astype(np.float32)
    step = max(1, BLOCK // max(size, 1))
    values, columns, counts = [], [], [np.zeros(1, np.int64)]
    for begin in range(0, size, step):
        met = sparse.csr_array(across[begin : begin + step] @ requests)
        for row in range(met.shape[0]):
            part = slice(met.indptr[row], met.indptr[row + 1])
            times, others = met.data[part], met.indices[part]
            kept = np.flatnonzero((times >= LEAST_TOGETHER) & (others != begin + row))
            if len(kept) > most:
                kept = kept[np.argpartition(-times[kept], most)[:most]]
            kept = kept[np.argsort(others[kept])]
            values.append(times[kept] / (length[begin + row] * length[others[kept]]))
            columns.append(others[kept])
            counts.append(np.array([len(kept)]))
    ends = np.cumsum(np.concatenate(counts))
    return sparse.csr_array((np.concatenate(values).astype(np.float32), np.concatenate(columns), ends), (size, size))


def titles_alike(vectors_ID: np.ndarray, most: int) -> sparse.csr_array:
    """exp(SHARPNESS · (cosine − 1)) of each item's `most` nearest others, float32 (I, I).

    The search is exact up to EXACT_UP_TO items, above it is FAISS's, which looks into PROBES of its inverted lists and
    may miss some.

    Args:
        vectors_ID: unit vectors of the items' texts.
        most: neighbours.

    Raises:
        UserError: there are more items, and FAISS is not installed.
    """
    size = len(vectors_ID)
    most = min(most, size - 1)
    if most < 1:
        return sparse.csr_array((size, size), dtype=np.float32)
    search = _exact(vectors_ID) if size <= EXACT_UP_TO else _approximate(vectors_ID)
    counts, columns, values = [0], [], []
    step = max(1, BLOCK // size)
    for begin in range(0, size, step):
        for row, (numbers, cosines) in enumerate(zip(*search(begin, begin + step, most + 1), strict=True), begin):
            kept = np.flatnonzero((numbers >= 0) & (numbers != row))[:most]
            kept = kept[np.argsort(numbers[kept])]
            columns.append(numbers[kept])
            values.append(np.exp(SHARPNESS * (cosines[kept] - 1.0)))
            counts.append(len(kept))
    entries = np.concatenate(values).astype(np.float32), np.concatenate(columns), np.cumsum(counts)
    return sparse.csr_array(entries, (size, size))


_Search = Callable[[int, int, int], tuple[np.ndarray, np.ndarray]]
"""Begin and end of some rows, and how many are wanted: numbers and cosines of the nearest, best first, itself too."""


def _exact(vectors_ID: np.ndarray) -> _Search:
    def search(begin: int, end: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        cosines = vectors_ID[begin:end] @ vectors_ID.T
        best = np.argpartition(-cosines, wanted - 1, axis=1)[:, :wanted]
        order = np.argsort(-np.take_along_axis(cosines, best, 1), axis=1, kind="stable")
        best = np.take_along_axis(best, order, 1)
        return best, np.take_along_axis(cosines, best, 1)

    return search


def inverted_lists(size: int) -> int:
    """How many lists FAISS puts so many vectors into; it wants 39 vectors of each."""
    return max(1, min(4096, int(4 * size**0.5), size // 39))


def _approximate(vectors_ID: np.ndarray) -> _Search:
    if find_spec("faiss") is None:
        raise UserError(
            f"titles of more than {EXACT_UP_TO:,} items are searched by FAISS: run `pip install equipoise[recall]`, or "
            "set objectives.recall.sources=false"
        )
    faiss = import_module("faiss")
    vectors_ID = np.ascontiguousarray(vectors_ID, np.float32)
    size, dimension = vectors_ID.shape
    lists = inverted_lists(size)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimension), dimension, lists, faiss.METRIC_INNER_PRODUCT)
    sample = np.random.default_rng(0).choice(size, min(size, 40 * lists), replace=False)
    index.train(vectors_ID[np.sort(sample)])
    index.add(vectors_ID)
    index.nprobe = PROBES

    def search(begin: int, end: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        cosines, numbers = index.search(vectors_ID[begin:end], wanted)
        return numbers, cosines

    return search


@dataclass(frozen=True)
class RecallSources:
    """Everything of a score but the backbone's vectors.

    Attributes:
        counts: of purchases.
        alike: float32 (I, I), see `titles_alike`.
        weights: of POPULARITY and NAMES.
        of_item, of_history: float32 (I, Q), projections of the frozen vectors; Q is 0 where they help nothing.
        axes: float32 (3, Q, D): both projections, and in the first row of the last one the mean of the frozen vectors;
            new items get theirs by it.
        half_life_days, neighbours: as `Counts.of` takes them.
    """

    counts: Counts
    alike: sparse.csr_array
    weights: dict[str, float]
    of_item: np.ndarray
    of_history: np.ndarray
    axes: np.ndarray
    half_life_days: float
    neighbours: int

    def __len__(self) -> int:
        return len(self.counts.bought)

    def popularity(self) -> np.ndarray:
        """The terms that all shoppers share, float32 (I,)."""
        weights = np.array([self.weights[name] for name in POPULARITY], np.float32)
        return weights @ self.counts.popularity

    def columns(self, bought: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A shopper's own columns: int64 (T,), the items that have any, ascending, and float32 (T, K).

        Args:
            bought: item numbers, ascending.
            times: how often each was bought; those of 0 count as not bought.
        """
        bought, times = np.asarray(bought)[np.asarray(times) > 0], np.asarray(times, np.float64)[np.asarray(times) > 0]
        if not len(bought):
            return np.empty(0, np.int64), np.empty((0, len(NAMES)), np.float32)
        amounts = np.log1p(times).astype(np.float32)
        own = sparse.csr_array((amounts, (np.zeros(len(bought), np.int64), bought)), (1, len(self)))
        together, alike = own @ self.counts.together, own @ self.alike
        touched = np.zeros(len(self), bool)
        for numbers in (bought, together.indices, alike.indices):
            touched[numbers] = True
        items = np.flatnonzero(touched)
        place_of = np.cumsum(touched) - 1
        columns = np.zeros((len(items), len(NAMES)), np.float32)
        place = {name: index for index, name in enumerate(NAMES)}
        at = place_of[bought]
        for name, least in zip(COLUMNS["bought"], TIMES, strict=False):
            columns[at, place[name]] = times >= least
        columns[at, place["log_times"]] = amounts
        columns[at, place["log_share"]] = np.log(times / times.sum())
        columns[at, place["bought_lately"]] = self.counts.popularity[1, bought]
        sums = np.zeros((2, len(items)), np.float32)
        for row, found in enumerate((together, alike)):
            sums[row, place_of[found.indices]] = found.data
        shares = sums[0] / amounts.sum()
        for name, each in zip(LITTLE, (sums[0], shares, sums[1]), strict=True):
            columns[:, place[name]] = np.log1p(each / LITTLE[name])
            columns[at, place[f"bought_{name}"]] = columns[at, place[name]]
        return items, columns

    def own_terms(self, bought: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """A shopper's own terms by source: int64 (T,) items, and of each source float32 (T,)."""
        items, columns = self.columns(bought, times)
        terms, begin = {}, 0
        for source, names in COLUMNS.items():
            weights = np.array([self.weights[name] for name in names], np.float32)
            terms[source] = columns[:, begin : begin + len(names)] @ weights
            begin += len(names)
        return items, terms

    def query(self, bought: np.ndarray, times: np.ndarray) -> np.ndarray:
        """q_u, float32 (Q,): 0 of a shopper without purchases."""
        amounts = np.log1p(np.asarray(times, np.float32))
        length = float(np.linalg.norm(amounts))
        if not length:
            return np.zeros(self.of_history.shape[1], np.float32)
        return (amounts / length) @ self.of_history[np.asarray(bought, np.int64)]

    def scores(self, bought: np.ndarray, times: np.ndarray) -> np.ndarray:
        """The score of every item for one shopper, float32 (I,)."""
        scores = self.popularity() + self.of_item @ self.query(bought, times)
        items, terms = self.own_terms(bought, times)
        scores[items] += sum(terms.values())
        return scores

    def counted_again(self, taken: Ragged, age_days: np.ndarray) -> "RecallSources":
        """The same weights over other purchases."""
        counts = Counts.of(taken, age_days, len(self), self.half_life_days, self.neighbours)
        return replace(self, counts=counts)

    def with_items(self, known: Sequence[int], vectors_ID: np.ndarray) -> "RecallSources":
        """The sources of another catalogue: what is known of its items moves along.

        Args:
            known: number of each new item in this catalogue, −1 where it has none; such an item has the least
                popularity of all and was bought with nothing.
            vectors_ID: frozen unit vectors of all items of the new catalogue.
        """
        rows = np.asarray(known, np.int64)
        least = self.counts.popularity.min(axis=1, keepdims=True)
        popularity = np.where(rows >= 0, self.counts.popularity[:, rows], least).astype(np.float32)
        at = np.flatnonzero(rows >= 0)
        ones = np.ones(len(at), np.float32)
        pick = sparse.csr_array((ones, (at, rows[at])), (len(rows), len(self)))
        together = sparse.csr_array(pick @ self.counts.together @ pick.T)
        bought = (rows >= 0) & self.counts.bought[rows]
        of_item, of_history = projected(self.axes, vectors_ID)
        return replace(
            self,
            counts=Counts(popularity, together, bought),
            alike=titles_alike(vectors_ID, NEAREST),
            of_item=of_item,
            of_history=of_history,
        )

    def same_as(self, other: "RecallSources") -> bool:
        """Whether the other ones give the same scores."""
        plain = (self.weights, self.half_life_days, self.neighbours, len(self))
        arrays = [
            (each.counts.popularity, each.counts.together.data, each.alike.data, each.of_item, each.of_history)
            for each in (self, other)
        ]
        return plain == (other.weights, other.half_life_days, other.neighbours, len(other)) and all(
            np.array_equal(one, two) for one, two in zip(*arrays, strict=True)
        )

    def write(self, folder: Path) -> None:
        """Write the files that `read` takes."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {"popularity": self.counts.popularity, "bought": self.counts.bought, "axes": self.axes}
        arrays |= {"of_item": self.of_item, "of_history": self.of_history}
        with atomic_write(folder / ARRAYS) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)
        for name, matrix in ((TOGETHER, self.counts.together), (ALIKE, self.alike)):
            with atomic_write(folder / name) as partial, partial.open("wb") as file:
                sparse.save_npz(file, matrix, compressed=False)
        about = {"weights": self.weights, "half_life_days": self.half_life_days, "neighbours": self.neighbours}
        with atomic_write(folder / FILE) as partial:
            partial.write_text(json.dumps(about, indent=2) + "\n", "utf-8")
        seal(folder)

    @classmethod
    def read(cls, folder: Path) -> "RecallSources":
        """Read a folder.

        Raises:
            UserError: a file is missing or broken.
        """
        refuse_changed(folder, "restore it, or train and export again")
        try:
            about: dict[str, Any] = json.loads((folder / FILE).read_text("utf-8"))
            with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
                held = {name: arrays[name] for name in arrays.files}
            together, alike = (sparse.csr_array(sparse.load_npz(folder / name)) for name in (TOGETHER, ALIKE))
            counts = Counts(held["popularity"], together, held["bought"])
            return cls(counts, alike, about.pop("weights"), held["of_item"], held["of_history"], held["axes"], **about)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder} holds no complete sources of recall ({error}): restore it, or train and export again"
            ) from error


def projected(axes: np.ndarray, vectors_ID: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`of_item` and `of_history`, float32 (I, Q) each, of frozen unit vectors."""
    if not axes.shape[1]:
        nothing = np.zeros((len(vectors_ID), 0), np.float32)
        return nothing, nothing
    centred = vectors_ID - axes[2, 0]
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return (centred @ axes[0].T).astype(np.float32), (centred @ axes[1].T).astype(np.float32)

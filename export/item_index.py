"""The best of a whole catalogue by ⟨u, v_i⟩ + b_i: exact, or by FAISS where the catalogue is large.

Shape suffixes: Q queries, I items, D dimension.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.common.sealed import refuse_changed
from equipoise.modeling.recall_sources import inverted_lists

EXACT_UP_TO = 1_000_000
"""Items up to which all are scored: above, that takes longer than a request should."""
BLOCK_SCORES = 1 << 25
"""Scores that are held at once."""
TRAIN_SAMPLE = 100_000
PROBES = 48
SPARE = 2.0
"""The approximate search fetches so many times more than is asked for, and these are scored exactly."""
SOURCES = "sources"
"""Folder beside the vectors: what recall knows beside them."""
POPULAR = 2_000
"""Items with the largest biases, which are scored exactly too: they are in all lists, near a query or not."""

Boost = tuple[np.ndarray, np.ndarray]


class RecallIndex:
    """Top-k of ⟨u, v_i⟩ + b_i over a catalogue.

    Args:
        vectors: float32 (I, D).
        bias: float32 (I,).
        exact: score every item; None: up to `EXACT_UP_TO` items, or where FAISS is not installed.
        faiss_file: an index that `save` has written, so that it need not be built.
        length: of the queries, about. FAISS puts items into lists by (length · v, b), so that neighbours have
            similar scores; of unit vectors the biases alone would make the lists, and nearly all items would be in one.

    Raises:
        UserError: an approximate search is asked for and FAISS is missing, or the file is of another catalogue.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        bias: np.ndarray,
        exact: bool | None = None,
        faiss_file: Path | None = None,
        length: float = 1.0,
    ) -> None:
        self.vectors, self.bias = vectors, np.ascontiguousarray(bias, dtype=np.float32)
        self.length = length
        if exact is None:
            exact = len(vectors) <= EXACT_UP_TO or _faiss(required=False) is None
        self.exact = exact
        self._approximate: Any = None
        if not exact:
            self._popular = np.sort(np.argsort(-self.bias, kind="stable")[:POPULAR])
            self._approximate = self._read(faiss_file) if faiss_file is not None else self._build()

    def __len__(self) -> int:
        return len(self.vectors)

    def search(
        self,
        queries: np.ndarray,
        k: int,
        exclude: Sequence[np.ndarray] | None = None,
        boosts: Sequence[Boost] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best k items of each query, best first; equal scores by the lower item number.

        Args:
            queries: float32 (Q, D).
            k: how many; where fewer items remain, the last positions are −1 and −inf.
            exclude: per query the items that must not come back.
            boosts: per query some items and what is added to their scores.

        Returns:
            int64 and float32 (Q, k).
        """
        items = np.full((len(queries), k), -1, dtype=np.int64)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        step = max(1, BLOCK_SCORES // max(len(self), 1)) if self.exact else 1
        for begin in range(0, len(queries), step):
            block = np.ascontiguousarray(queries[begin : begin + step], dtype=np.float32)
            every = block @ self.vectors.T + self.bias if self.exact else None
            for row, query in enumerate(block, start=begin):
                left_out = exclude[row] if exclude is not None else np.empty(0, dtype=np.int64)
                added = boosts[row] if boosts is not None else (np.empty(0, dtype=np.int64), np.empty(0))
                if every is not None:
                    candidates, values = np.arange(len(self)), every[row - begin]
                else:
                    candidates, values = self._candidates(query, k, left_out, added[0])
                best, value = _best(candidates, values, k, left_out, added)
                items[row, : len(best)], scores[row, : len(best)] = best, value
        return items, scores

    def _candidates(
        self, query: np.ndarray, k: int, left_out: np.ndarray, boosted: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """More items than are needed, ascending, with their exact scores."""
        fetched = min(len(self), int(SPARE * k) + len(left_out))
        extended = np.append(query / self.length, 1.0).astype(np.float32)
        _, near = self._approximate.search(extended[None], fetched)
        candidates = np.unique(np.concatenate([near[0][near[0] >= 0], boosted, self._popular])).astype(np.int64)
        return candidates, self.vectors[candidates] @ query + self.bias[candidates]

    def _build(self) -> Any:
        faiss = _faiss(required=True)
        size, dimension = len(self), self.vectors.shape[1] + 1
        lists = inverted_lists(size)
        coarse = faiss.IndexFlatIP(dimension)
        kind = faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexIVFScalarQuantizer(coarse, dimension, lists, kind, faiss.METRIC_INNER_PRODUCT)
        rng = np.random.default_rng(0)
        sample = np.sort(rng.choice(size, min(size, max(TRAIN_SAMPLE, 40 * lists)), replace=False))
        index.cp.niter = 8
        index.train(self._with_bias(sample))
        for begin in range(0, size, TRAIN_SAMPLE):
            index.add(self._with_bias(np.arange(begin, min(begin + TRAIN_SAMPLE, size))))
        index.nprobe = PROBES
        return index

    def _with_bias(self, items: np.ndarray) -> np.ndarray:
        return np.hstack([self.length * self.vectors[items], self.bias[items, None]]).astype(np.float32)

    def save(self, path: Path) -> None:
        """Write what FAISS has built, under a temporary name first; nothing for an exact index."""
        if self._approximate is not None:
            with atomic_write(path) as partial:
                _faiss(required=True).write_index(self._approximate, str(partial))

    def _read(self, path: Path) -> Any:
        try:
            index = _faiss(required=True).read_index(str(path))
        except RuntimeError as error:
            raise UserError(f"{path} is missing or broken: run `equipoise index` again") from error
        if index.ntotal != len(self) or index.d != self.vectors.shape[1] + 1:
            raise UserError(f"{path} is of another catalogue than its vectors: run `equipoise index` again")
        index.nprobe = PROBES
        return index


def _best(candidates: np.ndarray, values: np.ndarray, k: int, left_out: np.ndarray, added: Boost) -> Boost:
    """The best k of some items (ascending) after boosts and exclusions."""
    values = values.astype(np.float32, copy=True)
    boosted = np.searchsorted(candidates, added[0])
    values[boosted] += np.asarray(added[1], dtype=np.float32)
    position = np.searchsorted(candidates, left_out)
    position = position[position < len(candidates)]
    excluded = np.isin(candidates[position], left_out)
    values[position[excluded]] = -np.inf
    remaining = int(np.isfinite(values).sum())
    count = min(k, remaining)
    if count == 0:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
    threshold = np.partition(values, len(values) - count)[len(values) - count]
    above = np.flatnonzero(values > threshold)
    equal = np.flatnonzero(values == threshold)[: count - len(above)]  # of equal ones, the lower numbers
    chosen = np.sort(np.concatenate([above, equal]))
    order = np.argsort(-values[chosen], kind="stable")
    return candidates[chosen[order]], values[chosen[order]]


def _faiss(required: bool) -> Any:
    try:
        import faiss
    except ImportError as error:
        if required:
            raise UserError("an approximate search needs FAISS: run `pip install equipoise[recall]`") from error
        return None
    return faiss


def write_vectors(folder: Path, vectors: np.ndarray, bias: np.ndarray, about: dict[str, Any]) -> None:
    """Write a catalogue's vectors (I, D) and biases (I,) as .npy files, and what they are as index.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("vectors", vectors), ("bias", bias)):
        with atomic_write(folder / f"{name}.npy") as partial, partial.open("wb") as file:
            np.save(file, np.ascontiguousarray(array, dtype=np.float32))
    with atomic_write(folder / "index.json") as partial:
        partial.write_text(json.dumps(about, indent=2) + "\n", "utf-8")


def read_vectors(folder: Path) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """What `write_vectors` wrote: vectors, mapped into memory, biases, and index.json.

    Raises:
        UserError: a file is missing, broken or does not fit the others.
    """
    refuse_changed(folder, "run `equipoise index` again")
    try:
        vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        bias = np.load(folder / "bias.npy")
        about = json.loads((folder / "index.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no complete index of items ({error}): run `equipoise index` again") from error
    if vectors.ndim != 2 or bias.shape != (len(vectors),):
        raise UserError(f"{folder} holds vectors and biases of different numbers of items: run `equipoise index` again")
    return np.asarray(vectors), bias, about


def read_index(folder: Path) -> tuple[RecallIndex, dict[str, Any]]:
    """The index in a folder, and index.json; with FAISS where its file is there.

    Raises:
        UserError: a file is missing, broken or does not fit the others.
    """
    vectors, bias, about = read_vectors(folder)
    file = folder / "index.faiss"
    if file.is_file():
        length = about.get("length", 1.0)  # that of the queries did not count before
        return RecallIndex(vectors, bias, exact=False, faiss_file=file, length=length), about
    return RecallIndex(vectors, bias), about

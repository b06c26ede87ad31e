"""Arrays of arrays on disk: one flat .npy and the offsets of its parts, grown while written, mapped when read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np


def run_indices(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The integers of several runs, one after another: int64, starts[0], starts[0] + 1, … for each run's length."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(np.asarray(starts, dtype=np.int64) - before, lengths) + np.arange(int(np.sum(lengths)))


class Ragged:
    """Parts of one flat array.

    Attributes:
        values: (V,), all parts one after another.
        offsets: int64 (N + 1,), where each part begins, and where the last one ends.
    """

    def __init__(self, values: np.ndarray, offsets: np.ndarray) -> None:
        self.values, self.offsets = values, offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def heads(self, parts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The first `lengths` values of each of `parts`, one after another."""
        return self.values[run_indices(self.offsets[parts], lengths)]

    def lengths(self) -> np.ndarray:
        """int64 (N,), how long each part is."""
        return np.diff(self.offsets)


class GrowingArray:
    """A one-dimensional .npy file that is written piece by piece; its header is set right at the end."""

    def __init__(self, path: Path, dtype: type) -> None:
        self.dtype, self.length = np.dtype(dtype), 0
        self._file = path.open("wb")
        self._write_header()
        self._header = self._file.tell()

    def _write_header(self) -> None:
        # numpy leaves room for any length in the header, so it can be written again over itself.
        kind = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self._file, kind)

    def append(self, values: Sequence[int] | np.ndarray) -> None:
        """Add values at the end."""
        array = np.ascontiguousarray(values, dtype=self.dtype)
        self._file.write(array.tobytes())
        self.length += len(array)

    def __enter__(self) -> "GrowingArray":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        try:
            if kind is None:
                self._file.seek(0)
                self._write_header()
                if self._file.tell() != self._header:
                    raise RuntimeError(f"the header of {self._file.name} has grown into the values")
        finally:
            self._file.close()


class RaggedWriter:
    """Writes a `Ragged` as NAME.ids.npy (int32) and NAME.offsets.npy (int64) into a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.values = GrowingArray(folder / f"{name}.ids.npy", np.int32)
        self.offsets = GrowingArray(folder / f"{name}.offsets.npy", np.int64)
        self.offsets.append([0])

    def append(self, parts: Sequence[Sequence[int] | np.ndarray]) -> np.ndarray:
        """Add parts at the end; returns their lengths, int64."""
        lengths = np.fromiter((len(part) for part in parts), dtype=np.int64, count=len(parts))
        values: Iterable[int] = chain.from_iterable(parts)
        self.append_flat(np.fromiter(values, dtype=np.int32, count=int(lengths.sum())), lengths)
        return lengths

    def append_flat(self, values: np.ndarray, lengths: np.ndarray) -> None:
        """Add parts that lie one after another, (sum of lengths,), of these lengths, int64 (N,)."""
        start = self.values.length
        self.values.append(values)
        self.offsets.append(start + np.cumsum(lengths))

    @property
    def parts(self) -> int:
        """How many there are."""
        return self.offsets.length - 1

    def __enter__(self) -> "RaggedWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        self.values.__exit__(kind, error, trace)
        self.offsets.__exit__(kind, error, trace)


def read_array(folder: Path, name: str) -> np.ndarray:
    """NAME.npy of a folder, mapped into memory, read-only."""
    return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r"))  # a plain view: np.memmap is slow to slice


def read_ragged(folder: Path, name: str) -> Ragged:
    """What a `RaggedWriter` wrote, mapped into memory, read-only."""
    return Ragged(read_array(folder, f"{name}.ids"), read_array(folder, f"{name}.offsets"))


@dataclass(frozen=True)
class RowLengths:
    """How many tokens stand where in a batch, on the host: what lays the tokens out needs no look at the device.

    Attributes:
        prefix: int64 (R,), tokens of each row's prefix.
        row: int64 (N,), the row of each candidate, in order.
        candidate: int64 (N,), tokens of each candidate.
    """

    prefix: np.ndarray
    row: np.ndarray
    candidate: np.ndarray

    def to(self, device: Any) -> "RowLengths":
        """Itself: it stays on the host."""
        return self

    @staticmethod
    def of(segment_ids: Any, candidate_tokens: Any) -> "RowLengths":
        """Read from a batch's tensors, which waits for the device that they are on."""
        tokens = candidate_tokens.cpu().numpy()
        prefix = (segment_ids == 0).sum(1).cpu().numpy()
        return RowLengths(prefix, tokens[:, 0] // segment_ids.shape[1], (tokens >= 0).sum(1))

"""Log-odds of training rows by priors that an earlier run fitted: out of fold where that run trained on a row itself.

A prior has seen the labels of the rows that it was fitted on, so of those the log-odds out of fold count that were kept
then; all other rows it may judge as it is.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from equipoise.common.errors import UserError
from equipoise.data.manifest import Manifest


@dataclass(frozen=True)
class Fitted:
    """The training rows of the run that fitted a prior.

    Attributes:
        data: the prepared folder.
        store: PREPARED/priors/KEY of it.
    """

    data: Path
    store: Path

    def to_json(self) -> dict[str, str]:
        """Its fields."""
        return {"data": str(self.data.resolve()), "store": str(self.store.resolve())}


def slate_keys(folder: Path, split: str = "train") -> tuple[list[str], np.ndarray]:
    """Of each slate of a split what names it (request and part), and int64 (S + 1,) where its rows begin.

    Raises:
        UserError: a shard is missing or broken.
    """
    manifest = Manifest.read(folder)
    manifest.verify(folder, split)
    keys, sizes = [], [np.zeros(1, np.int64)]
    for name in manifest.splits[split].files:
        try:
            table = pq.read_table(folder / name, columns=["request_id", "part", "item"])
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{folder / name} cannot be read ({error}): prepare again") from error
        parts = table.column("part").to_pylist()
        keys += [
            f"{part} {request}" for part, request in zip(parts, table.column("request_id").to_pylist(), strict=True)
        ]
        sizes.append(pc.list_value_length(table.column("item")).to_numpy().astype(np.int64))
    return keys, np.cumsum(np.concatenate(sizes))


def known_log_odds(found: np.ndarray, folder: Path, fitted: Fitted, file: str) -> int:
    """Put the log-odds out of fold in the place of those of rows that the prior was fitted on; returns of how many.

    Args:
        found: float32 (I, priors) of the training rows of `folder`, which is changed.
        folder: a prepared folder.
        fitted: whose rows are known.
        file: of the store.

    Raises:
        UserError: the folder or store of the earlier run is gone or broken.
    """
    way = "restore it, or fit the priors again with train.start_prior=refit"
    try:
        known = np.load(fitted.store / file, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{fitted.store / file}, with the log-odds of rows that the kept prior was fitted on, is missing: {way}"
        ) from error
    old_keys, old_first = slate_keys(fitted.data)
    if len(known) != old_first[-1]:
        raise UserError(f"{fitted.store / file} is not of the rows of {fitted.data}: {way}")
    places, (keys, first) = {key: number for number, key in enumerate(old_keys)}, slate_keys(folder)
    count = 0
    for number, key in enumerate(keys):
        old = places.get(key)
        if old is None:
            continue
        start, stop, size = old_first[old], old_first[old + 1], first[number + 1] - first[number]
        if stop - start != size:
            raise UserError(
                f"request '{key.partition(' ')[2]}' has {size} candidates in {folder}, {stop - start} in "
                f"{fitted.data}, where the kept prior was fitted: set train.start_prior=refit"
            )
        found[first[number] : first[number + 1]] = known[start:stop]
        count += int(size)
    return count

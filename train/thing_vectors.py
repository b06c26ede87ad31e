"""Frozen vectors of all things of a prepared folder, and the similarity columns that follow from them: made once.

They are in PREPARED/vectors/KEY: `things.npy`, and `SPLIT.similar.npy` of each split that was asked for. The folder of
the same data as of anonymous users has the same things, and reads the vectors of the original.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.common.progress import ProgressBar
from equipoise.common.sealed import refuse_changed, seal
from equipoise.configs.schema import BackboneConfig, RunConfig
from equipoise.data.manifest import THINGS, Manifest
from equipoise.data.prepare.masked import unmasked_folder
from equipoise.data.thing_columns import RIVAL, SIMILAR, Rivals, left_out, pool, rival_gap
from equipoise.data.token_cache import SplitTokens, TokenCache
from equipoise.modeling.base_config import config_hash, load_model_config
from equipoise.modeling.base_files import resolve_path
from equipoise.modeling.frozen_text import MAX_TOKENS, FrozenText

FOLDER = "vectors"
FILE_NAME = "things.npy"
BLOCK_TEXTS = 65_536
BLOCK_COSINES = 4_000_000
"""Cosines that are pooled at once."""
ALL_COSINES = 8_192
"""Things up to which the cosines of all pairs are computed at once, in 256 MiB."""
EDGE = 1 << 20
"""Bytes at both ends of a file by which weights are recognised."""


@dataclass(frozen=True)
class ThingVectors:
    """Vectors of all things.

    Attributes:
        folder: where they are.
        vectors: float32 (T, D), of unit length, mapped into memory, by thing_index.
    """

    folder: Path
    vectors: np.ndarray

    @classmethod
    def open(cls, folder: Path) -> "ThingVectors":
        """Map the vectors of a folder that is complete.

        Raises:
            UserError: a file is not as it was written.
        """
        refuse_changed(folder, f"delete {folder} and run `equipoise tokenize` again")
        return cls(folder, np.asarray(np.load(folder / FILE_NAME, mmap_mode="r")))

    def __reduce__(self) -> tuple:
        return ThingVectors.open, (self.folder,)  # another process maps the file itself


def find_vectors(config: RunConfig) -> ThingVectors:
    """The vectors that a job compares by, before its processes meet; a single process makes those that are missing.

    Raises:
        UserError: the folder was prepared without `data.comparison`, or the job has several processes and they are
            missing.
    """
    folder = vectors_folder(config)
    if (folder / FILE_NAME).is_file():
        return ThingVectors.open(folder)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"{config.data.folder} holds no vectors of its things for this backbone: run `equipoise tokenize CONFIG` "
            "with the same settings, then launch again"
        )
    return make_vectors(config)[0]


def make_vectors(config: RunConfig, before: ThingVectors | None = None) -> tuple[ThingVectors, bool]:
    """The vectors of a configuration, and whether they had to be made.

    `before`: vectors of the part before, whose things have the same numbers and are not read again.

    Raises:
        UserError: the folder was prepared without `data.comparison`, or the backbone cannot be loaded.
    """
    folder = vectors_folder(config)
    if (folder / FILE_NAME).is_file():
        return ThingVectors.open(folder), False
    folder.mkdir(parents=True, exist_ok=True)
    frozen = FrozenText(config.backbone, config.seed, device="cuda" if torch.cuda.is_available() else "cpu")
    with ProgressBar("vectors of things") as bar, atomic_write(folder / FILE_NAME) as partial:
        _write_vectors(partial, config.data.folder / THINGS, frozen, bar.stage, before)
    seal(folder)
    return ThingVectors.open(folder), True


def copy_vectors(source: ThingVectors, config: RunConfig) -> None:
    """Copy the vectors of the same things to another prepared folder, where they are not there yet."""
    folder = vectors_folder(config)
    if (folder / FILE_NAME).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / FILE_NAME) as partial:
        shutil.copyfile(source.folder / FILE_NAME, partial)
    seal(folder)


def _write_vectors(
    path: Path,
    things: Path,
    frozen: FrozenText,
    on_progress: Callable[[str, float], None],
    before: ThingVectors | None = None,
) -> None:
    with pq.ParquetFile(things) as file:
        shape = (file.metadata.num_rows, frozen.size)
        vectors = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        known = 0 if before is None else len(before.vectors)
        if before is not None:
            vectors[:known] = before.vectors
        row = 0
        for batch in file.iter_batches(BLOCK_TEXTS, columns=["text"]):
            first, row = max(row, min(known, row + batch.num_rows)), row + batch.num_rows
            texts = batch.column(0).to_pylist()[batch.num_rows - (row - first) :]

            def progress(fraction: float, first: int = first, size: int = len(texts)) -> None:
                on_progress("vectors of things", (first + fraction * size) / shape[0])

            if texts:
                vectors[first:row] = frozen.vectors(texts, progress)
        vectors.flush()


def vectors_folder(config: RunConfig) -> Path:
    """Where the vectors of a configuration are, or will be: named by what decides them.

    Raises:
        UserError: the folder was prepared without `data.comparison`.
    """
    data = config.data.folder
    manifest = Manifest.read(data)
    if manifest.comparison is None:
        raise UserError(f"{data} was prepared without data.comparison: run `equipoise prepare` again")
    identity = [base_identity(config.backbone, config.seed), MAX_TOKENS, manifest.hashes[THINGS]]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    original = unmasked_folder(data)
    return (original if original.is_dir() else data) / FOLDER / key


def base_identity(backbone: BackboneConfig, seed: int) -> list[str]:
    """What decides the vectors that a frozen base makes: its architecture, weights and tokenizer.

    Files count by name, size and both ends, so that a copy elsewhere is recognised; a hub id by its revision.
    """
    config = load_model_config(backbone)
    identity = [config_hash(config), str(backbone.quantize)]
    if backbone.init == "random":
        identity += [f"seed {seed}", backbone.dtype]
    for path in dict.fromkeys([backbone.path, backbone.tokenizer or backbone.path]):
        folder = Path(resolve_path(path))
        if not folder.is_dir():
            identity.append(f"{path} {backbone.revision} {getattr(config, '_commit_hash', None)}")
            continue
        files = sorted(file for file in folder.iterdir() if file.is_file())
        identity += [f"{file.name} {_fingerprint(file)}" for file in files]
    return identity


def _fingerprint(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(EDGE))
        file.seek(max(size - EDGE, 0))
        digest.update(file.read(EDGE))
    return f"{size} {digest.hexdigest()}"


def thing_columns(tokens: TokenCache, vectors: ThingVectors, split: str) -> dict[str, np.ndarray]:
    """The columns SIMILAR of a split, float32 (I,) each: NaN where a candidate is compared with nothing.

    They are computed once and kept beside the vectors. Of anonymous users all are NaN.
    """
    split_tokens = tokens.split(split)
    assert split_tokens.things is not None, "the folder compares nothing"
    if not len(split_tokens.things.values):
        columns_I3 = np.full((len(split_tokens.item), len(SIMILAR)), np.nan, np.float32)
    else:
        path = vectors.folder / f"{split}.similar.npy"
        if not path.is_file():
            with atomic_write(path) as partial, partial.open("wb") as file:
                np.save(file, _similar_columns(split_tokens, vectors.vectors))
            seal(vectors.folder, [path.name])
        columns_I3 = np.load(path, mmap_mode="r")
    return {name: np.ascontiguousarray(columns_I3[:, index]) for index, name in enumerate(SIMILAR)}


def rival_columns(manifest: Manifest, tokens: TokenCache, vectors: ThingVectors, split: str) -> dict[str, np.ndarray]:
    """The column RIVAL of a split, float32 (I,), by name; nothing where `data.comparison.rivals` is not set.

    Raises:
        UserError: the price that is compared is no feature of scale log.
    """
    record = (manifest.comparison or {}).get("rivals")
    if record is None:
        return {}
    name, scale = record["price"], manifest.features.get(record["price"])
    if getattr(scale, "scale", None) != "log":
        raise UserError(
            f"data.comparison.rivals compares '{name}', which is no number of scale log in data.features: add it there"
        )
    rivals = Rivals.of(record, vectors.vectors)
    of_split, item_things = tokens.split(split), tokens.item_things
    assert item_things is not None, "the folder compares nothing"
    prices_I, gaps_I = np.log(np.asarray(of_split.features[name], np.float64)), np.empty(len(of_split.item), np.float32)
    for first, stop in pairwise(of_split.first.tolist()):
        things_N = item_things[of_split.item[first:stop]].astype(np.int64)
        own_ND, log_N = np.asarray(vectors.vectors[things_N]), prices_I[first:stop]
        unread_N = (things_N < 0) | np.isnan(log_N)
        hidden_NN = unread_N[:, None] | unread_N[None] | np.eye(len(log_N), dtype=bool)
        gaps_I[first:stop] = rival_gap(rivals.weights(own_ND, hidden_NN), log_N, log_N)
    return {RIVAL: gaps_I}


def _similar_columns(tokens: SplitTokens, vectors_TD: np.ndarray) -> np.ndarray:
    """The columns SIMILAR, float32 (I, 3), slates in blocks of about BLOCK_COSINES cosines."""
    things, item_things, first = tokens.things, tokens.cache.item_things, tokens.first
    assert things is not None and item_things is not None
    columns_I3 = np.full((len(tokens.item), len(SIMILAR)), np.nan, np.float32)
    longest = max(int(things.lengths().max(initial=0)), 1)
    # One large product is quicker than thousands of small ones, which threads share badly.
    cosines_TT = vectors_TD @ vectors_TD.T if len(vectors_TD) <= ALL_COSINES else None
    low = 0
    while low < len(tokens):
        most = first[low] + max(BLOCK_COSINES // longest, 1)
        high = min(max(int(np.searchsorted(first, most, side="right")) - 1, low + 1), len(tokens))
        begin, stop = int(first[low]), int(first[high])
        candidate_N = item_things[tokens.item[begin:stop]].astype(np.int64)
        history_NH = np.full((stop - begin, longest), -1, np.int64)
        for row in range(low, high):
            rows = slice(int(first[row]) - begin, int(first[row + 1]) - begin)
            history_NH[rows, : len(things[row])] = things[row]
        if cosines_TT is not None:
            cosines_NH = cosines_TT[candidate_N[:, None], history_NH]  # where one is −1, it is left out below
        else:
            cosines_NH = np.zeros(history_NH.shape, np.float32)
            for row in range(low, high):
                rows, history = slice(int(first[row]) - begin, int(first[row + 1]) - begin), things[row]
                cosines_NH[rows, : len(history)] = vectors_TD[candidate_N[rows]] @ vectors_TD[history].T
        columns_I3[begin:stop] = pool(cosines_NH, left_out(history_NH, candidate_N), 3)
        low = high
    return columns_I3

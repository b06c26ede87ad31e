"""Writes a token cache (docs/slate_format.md) from its parts, completely or not at all."""

import json
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from equipoise.common.atomic import atomic_dir
from equipoise.common.digest import with_digest
from equipoise.common.errors import UserError
from equipoise.common.file_lock import Held, hold
from equipoise.common.hashing import file_hash
from equipoise.common.process import with_variables
from equipoise.data.manifest import Manifest
from equipoise.data.ragged import GrowingArray, RaggedWriter, read_array, read_ragged
from equipoise.data.token_cache import FILE_NAME, FORMAT, TextCounts, TokenCache
from equipoise.data.token_parts import (
    CONTEXT_TEXTS,
    MAX_CONTEXTS,
    WAIT_SECONDS,
    PartWriter,
    TokenPart,
    list_names,
    make_parts,
    number_kinds,
    part_record,
    parts_of,
)
from equipoise.data.tokens import SlateTokenizer, candidate_cut

PARTS_SHARE = 0.95
"""Of the work that is shown: making the parts; the rest is joining them."""

MOST_DAMAGED = 3
"""So often parts are made again that were not as they had been written."""

OnProgress = Callable[[str, float], None]
Counts = dict[str, dict[str, int]]


def write_token_cache(
    folder: Path,
    prepared: Path,
    tokenizer: SlateTokenizer,
    on_progress: OnProgress,
    before: tuple[Path, TokenCache] | None = None,
) -> bool:
    """Tokenise all items, contexts and prefixes of a prepared folder into `folder`, which appears when it is complete.

    Processes that do this at once, on one machine or on several with one file system, share the work; one that was
    killed leaves its finished parts to the next.

    Args:
        folder: PREPARED/tokens/KEY; one that is there already (a damaged one) is replaced.
        prepared: written by `equipoise prepare`.
        tokenizer: without any item texts.
        on_progress: called with the stage and the fraction of the work that is done, 0 to 1.
        before: prepared folder and tokens of the days before; items whose text is still the same are not tokenised.

    Returns:
        Whether this process put it together; another has, where it was there or came meanwhile.

    Raises:
        UserError: a file of the prepared folder is missing or unreadable, or the disk does not keep what is written.
    """
    manifest = Manifest.read(prepared, verify=True)
    kept, damaged = parts_folder(folder), 0
    while not is_complete(folder):
        try:
            tokenise_parts(folder, prepared, tokenizer, on_progress, before)
            with hold(kept / "join.lock"):
                joined = not is_complete(folder) and _join(folder, kept, prepared, manifest, tokenizer, on_progress)
        except (Held, FileNotFoundError):  # another process joins them, or just has
            if not is_complete(folder):
                time.sleep(WAIT_SECONDS)
            continue
        if joined:
            shutil.rmtree(kept, ignore_errors=True)
            return True
        damaged += 1
        if damaged == MOST_DAMAGED and not is_complete(folder):
            raise UserError(
                f"{kept} does not keep what is written into it: {damaged} times parts of it were found changed; check "
                "the disk, and run it again"
            )
    return False


def tokenise_parts(
    folder: Path,
    prepared: Path,
    tokenizer: SlateTokenizer,
    on_progress: OnProgress,
    before: tuple[Path, TokenCache] | None = None,
) -> None:
    """Make the parts of a cache that nobody has made, and wait until all are there; as for `write_token_cache`."""
    manifest = Manifest.read(prepared, verify=True)
    parts = parts_of(prepared, manifest)
    total = max(sum(part.size for part in parts), 1)
    done = 0

    def advance(stage: str, count: int) -> None:
        nonlocal done
        done += count
        on_progress(stage, PARTS_SHARE * min(done / total, 1.0))

    writer = PartWriter(prepared, manifest, tokenizer, advance, before)
    with with_variables(TOKENIZERS_PARALLELISM="true"):  # on all cores, also where that is switched off
        make_parts(
            parts_folder(folder),
            parts,
            writer.write,
            lambda part, made: None if made else advance("tokenising", part.size),
        )


def parts_folder(folder: Path) -> Path:
    """Where the parts of a cache are kept until it is whole."""
    return folder.with_name(f"{folder.name}.parts")


def is_complete(folder: Path) -> bool:
    """Whether a cache is there and whole."""
    if not folder.is_dir():
        return False
    try:
        TokenCache(folder)
    except UserError:
        return False
    return True


def _join(
    folder: Path,
    kept: Path,
    prepared: Path,
    manifest: Manifest,
    tokenizer: SlateTokenizer,
    on_progress: OnProgress,
) -> bool:
    """Put the cache together; where a part is not as it was written, delete it and say False."""
    parts = parts_of(prepared, manifest)
    counts = {part.name: part_record(kept, part) for part in parts}
    damaged = [name for name, each in counts.items() if each is None]
    for name in damaged:
        shutil.rmtree(kept / name, ignore_errors=True)
    if damaged:
        return False
    whole = {name: each for name, each in counts.items() if each is not None}
    with atomic_dir(folder, keep=is_complete) as building:
        _Joined(building, kept, prepared, manifest, tokenizer, on_progress).write(folder.name, parts, whole)
    return True


class _Joined:
    """One cache, put together part after part: contexts get their numbers, and candidates their lengths."""

    def __init__(
        self,
        out: Path,
        kept: Path,
        prepared: Path,
        manifest: Manifest,
        tokenizer: SlateTokenizer,
        on_progress: OnProgress,
    ) -> None:
        self.out, self.kept, self.prepared, self.manifest, self.tokenizer = out, kept, prepared, manifest, tokenizer
        self.on_progress = on_progress
        self.room = tokenizer.candidate_room
        self.item_lengths = np.empty(0, dtype=np.int64)
        self.codes: dict[str, tuple[int, int]] = {}
        self.lists = list_names(manifest)

    def write(self, key: str, parts: list[TokenPart], counts: Counts) -> None:
        self._write_items([part for part in parts if not part.split])
        if "things" in self.lists:
            self._write_item_things()
        with RaggedWriter(self.out, "contexts") as self.contexts:
            self._add_contexts([""], np.zeros(0, dtype=np.int32), np.zeros(1, dtype=np.int64))
            splits = {name: [part for part in parts if part.split == name] for name in self.manifest.splits}
            told = {name: vars(self._write_split(name, each, counts)) for name, each in splits.items()}
        paths = sorted(self.out.iterdir())
        record = {
            "format": FORMAT,
            "room": self.room,
            "start": self.tokenizer.start,
            "candidate_end": self.tokenizer.candidate_end,
            "pad_id": self.tokenizer.pad_id,
            "counts": told,
            "features": list(self.manifest.features),
            "labels": self.manifest.label_columns,
            "bought": "bought" in self.lists,
            "things": "things" in self.lists,
            "computed": self.manifest.computed,
            "weights": self.manifest.weights is not None,
            "position": self.manifest.position is not None,
            "key": key,
            "files": {path.name: path.stat().st_size for path in paths},
            "hashes": {path.name: file_hash(path) for path in paths},
        }
        (self.out / FILE_NAME).write_text(json.dumps(with_digest(record), indent=2) + "\n", encoding="utf-8")
        self.on_progress("tokenising", 1.0)

    def _write_items(self, parts: list[TokenPart]) -> None:
        lengths = []
        with RaggedWriter(self.out, "items") as items:
            for part in parts:
                made = read_ragged(self.kept / part.name, "items")
                lengths.append(made.lengths())
                items.append_flat(made.values, lengths[-1])
        self.item_lengths = np.concatenate([self.item_lengths, *lengths])

    def _write_item_things(self) -> None:
        """The number of every item's thing, −1 where it has none."""
        column = pq.read_table(self.prepared / "items.parquet", columns=["thing_index"]).column(0)
        things = pc.fill_null(column, -1).to_numpy().astype(np.int32)
        with GrowingArray(self.out / "item_things.npy", np.int32) as array:
            array.append(things)

    def _add_contexts(self, texts: list[str], ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Numbers and lengths of contexts, int64 (N, 2); those that are new get numbers, and their ids are written.

        Args:
            texts: N of them, all different.
            ids: int32, theirs, one after another.
            lengths: int64 (N,).
        """
        new = np.array([text not in self.codes for text in texts], dtype=bool)
        if len(self.codes) + int(new.sum()) > MAX_CONTEXTS:  # what comes again later is written once more
            self.codes.clear()
            new[:] = True
        first = self.contexts.parts
        self.contexts.append_flat(ids[np.repeat(new, lengths)], lengths[new])
        added = np.flatnonzero(new).tolist()
        numbers = range(first, first + len(added))
        self.codes.update((texts[n], (number, int(lengths[n]))) for n, number in zip(added, numbers, strict=True))
        return np.array([self.codes[text] for text in texts], dtype=np.int64).reshape(-1, 2)

    def _write_split(self, name: str, parts: list[TokenPart], counts: Counts) -> TextCounts:
        kinds = number_kinds(self.manifest)
        plain = [key for key in kinds if key != "context"]
        cut_candidates = 0
        with ExitStack() as stack:
            ragged = {
                key: stack.enter_context(RaggedWriter(self.out, f"{name}.{key}")) for key in ("prefix", *self.lists)
            }
            arrays = {
                key: stack.enter_context(GrowingArray(self.out / f"{name}.{key}.npy", kind))
                for key, kind in {"first": np.int64, "length": np.int32, **kinds}.items()
            }
            arrays["first"].append([0])
            for part in parts:
                made = self.kept / part.name
                arrays["first"].append(arrays["item"].length + np.cumsum(read_array(made, "size")))
                for key, writer in ragged.items():
                    each = read_ragged(made, key)
                    writer.append_flat(each.values, each.lengths())
                cut_candidates += self._write_candidates(made, arrays)
                for key in plain:
                    arrays[key].append(read_array(made, key))
                self.on_progress("joining", PARTS_SHARE)
        seen, cut = (sum(counts[part.name][key] for part in parts) for key in ("prefixes", "cut_prefixes"))
        return TextCounts(seen, cut, arrays["item"].length, cut_candidates)

    def _write_candidates(self, made: Path, arrays: dict[str, GrowingArray]) -> int:
        """Append contexts and lengths of a part's candidates; returns how many of them are cut."""
        texts = pq.read_table(made / CONTEXT_TEXTS).column(0).to_pylist()
        own = read_ragged(made, "contexts")
        known = self._add_contexts(texts, own.values, own.lengths())[read_array(made, "context")]
        of_item, of_context, over = candidate_cut(self.item_lengths[read_array(made, "item")], known[:, 1], self.room)
        arrays["context"].append(known[:, 0])
        arrays["length"].append(of_item + of_context + len(self.tokenizer.candidate_end))
        return int(over.sum())

"""The token cache: the same ids as direct tokenising, whole or not at all, and exact costs."""

import itertools
import multiprocessing
import os
import pickle
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from torch.utils.data import DataLoader

from equipoise.common.errors import UserError
from equipoise.common.file_lock import hold
from equipoise.common.verified import MEMORY
from equipoise.configs.schema import TokensConfig
from equipoise.data import token_cache, token_parts, token_writer
from equipoise.data.manifest import Manifest
from equipoise.data.sampling import BatchOrder
from equipoise.data.slate_set import SlateSet, TrainBatches
from equipoise.data.token_cache import TokenCache, cache_key
from equipoise.data.token_writer import parts_folder, tokenise_parts, write_token_cache
from equipoise.data.tokens import SlateTokenizer

TIGHT = TokensConfig(max_prefix=8, max_candidate=4)
MIDDLE = TokensConfig(max_prefix=40, max_candidate=24)
WIDE = TokensConfig(max_prefix=2000, max_candidate=1000, max_row=3000)

Prepared = Callable[..., Path]


def silent(stage: str, share: float) -> None:
    """Listens to nothing."""


def write(folder: Path, tokenizer: Any, limits: TokensConfig = MIDDLE, encoder: bool = True) -> TokenCache:
    """The cache of a prepared folder, written anew."""
    place = folder / "tokens" / "key"
    write_token_cache(place, folder, SlateTokenizer(tokenizer, limits, encoder, []), silent)
    return TokenCache(place)


@pytest.fixture(scope="module")
def prepared(make_prepared: Prepared) -> Path:
    return make_prepared()


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_parts, "SLATE_BATCH", 3)
    monkeypatch.setattr(token_parts, "ITEM_BATCH", 5)
    monkeypatch.setattr(token_parts, "ITEMS_OF_A_PART", 7)


@pytest.mark.parametrize("limits", [TIGHT, MIDDLE, WIDE], ids=["tight", "middle", "wide"])
@pytest.mark.parametrize("encoder", [True, False])
def test_ids_are_those_of_direct_tokenising(
    encoder: bool, limits: TokensConfig, make_prepared: Prepared, wordpiece: Any, bytewise: Any
) -> None:
    folder = make_prepared()
    tokenizer = wordpiece if encoder else bytewise
    cache = write(folder, tokenizer, limits, encoder)
    for split in ("train", "valid", "test"):
        slates = SlateSet(folder, split, cache)
        direct = SlateTokenizer(tokenizer, limits, encoder, slates.items.texts)
        assert slates.pad_id == direct.pad_id
        for row in range(len(slates)):
            record, slate = slates.rows[row], slates.slate(row)
            assert slate.prefix.tolist() == direct.prefix(record["prefix"])
            expected = direct.candidates(record["item"], record["context"])
            assert [ids.tolist() for ids in slate.candidates] == expected
            assert slate.item.tolist() == record["item"]
            assert slate.click.tolist() == record["click"]
            assert slate.conversion.tolist() == record["conversion"]
        counts = slates.tokens.counts
        assert (counts.prefixes, counts.candidates) == (direct.seen["prefix"], direct.seen["candidate"])
        assert (counts.cut_prefixes, counts.cut_candidates) == (direct.cut["prefix"], direct.cut["candidate"])
    cut = cache.counts["train"].cut_candidates
    assert cut == 0 if limits is WIDE else cut > 0  # every case is met


def test_several_ids_may_end_a_candidate(make_prepared: Prepared, bytewise: Any) -> None:
    folder = make_prepared()
    tokenizer = SlateTokenizer(bytewise, MIDDLE, False, [])
    tokenizer.candidate_end = [7, 8, 9]
    write_token_cache(folder / "tokens" / "key", folder, tokenizer, silent)
    slates = SlateSet(folder, "train", TokenCache(folder / "tokens" / "key"))
    direct = SlateTokenizer(bytewise, MIDDLE, False, slates.items.texts)
    direct.candidate_end = [7, 8, 9]
    for row in range(len(slates)):
        record = slates.rows[row]
        expected = direct.candidates(record["item"], record["context"])
        assert [ids.tolist() for ids in slates.slate(row).candidates] == expected


def test_batches_leave_no_trace(
    make_prepared: Prepared, wordpiece: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    one, two = make_prepared(4), make_prepared(4)
    whole = write(one, wordpiece)
    request.getfixturevalue("small_batches")
    pieces = write(two, wordpiece)
    for path in whole.folder.iterdir():
        assert (pieces.folder / path.name).read_bytes() == path.read_bytes(), path.name


def test_each_text_is_tokenised_once_on_all_cores(
    make_prepared: Prepared, wordpiece: Any, small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_prepared()
    seen: list[str] = []
    parallel: set[str | None] = set()
    healthy = SlateTokenizer.ids

    def listening(self: SlateTokenizer, texts: list[str]) -> list[list[int]]:
        seen.extend(texts)
        if texts:
            parallel.add(os.environ.get("TOKENIZERS_PARALLELISM"))
        return healthy(self, texts)

    monkeypatch.setattr(SlateTokenizer, "ids", listening)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    write(folder, wordpiece)
    assert parallel == {"true"}
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
    rows = [row for split in ("train", "valid", "test") for row in SlateSet(folder, split).rows]
    contexts = {", " + text for row in rows for text in row["context"] if text}
    texts = pq.read_table(folder / "items.parquet").column("text").to_pylist()
    assert sorted(seen) == sorted([*texts, *contexts, *(row["prefix"] for row in rows)])


def test_progress_ends_at_one(prepared: Path, wordpiece: Any, tmp_path: Path) -> None:
    told: list[float] = []
    tokenizer = SlateTokenizer(wordpiece, MIDDLE, True, [])
    write_token_cache(prepared / "tokens" / "told", prepared, tokenizer, lambda stage, share: told.append(share))
    assert told == sorted(told) and told[-1] == 1.0 and len(told) > 3


def test_the_key_holds_what_decides_the_ids(
    prepared: Path, make_prepared: Prepared, wordpiece: Any, bytewise: Any
) -> None:
    manifest = Manifest.read(prepared)
    key = cache_key(wordpiece, MIDDLE, True, manifest)
    others = [
        cache_key(bytewise, MIDDLE, True, manifest),
        cache_key(wordpiece, MIDDLE, False, manifest),
        cache_key(wordpiece, TokensConfig(max_prefix=41, max_candidate=24), True, manifest),
        cache_key(wordpiece, TokensConfig(max_prefix=40, max_candidate=25), True, manifest),
        cache_key(wordpiece, MIDDLE, True, Manifest.read(make_prepared(1))),
    ]
    assert len({key, *others}) == 6
    assert cache_key(wordpiece, TokensConfig(max_prefix=40, max_candidate=24, max_row=99), True, manifest) == key
    wordpiece(["a", "a b c"], padding=True, truncation=True, max_length=3)  # leaves its settings in the tokenizer
    assert cache_key(wordpiece, MIDDLE, True, manifest) == key
    wordpiece(["a", "a b c"])
    assert cache_key(wordpiece, MIDDLE, True, manifest) == key


@pytest.mark.parametrize("name", ["cache.json", "items.ids.npy", "train.prefix.offsets.npy", "valid.click.npy"])
def test_a_damaged_cache_is_one_sentence_and_can_be_written_again(
    name: str, make_prepared: Prepared, wordpiece: Any
) -> None:
    folder = make_prepared()
    path = write(folder, wordpiece).folder / name
    content = path.read_bytes()
    for damage in (lambda: path.unlink(), lambda: path.write_bytes(content[:-9])):
        damage()
        with pytest.raises(UserError, match=rf"{name} is missing or .*: run `equipoise tokenize CONFIG` to write it"):
            TokenCache(path.parent)
        write(folder, wordpiece)
        assert path.read_bytes() == content


def test_a_cache_that_another_process_finished_stays(make_prepared: Prepared, wordpiece: Any) -> None:
    folder = make_prepared()
    cache = write(folder, wordpiece)
    mark = (cache.folder / "cache.json").stat().st_mtime_ns
    write(folder, wordpiece)
    assert (cache.folder / "cache.json").stat().st_mtime_ns == mark
    assert [path.name for path in cache.folder.parent.iterdir()] == ["key"]


def test_a_killed_job_goes_on_where_it_was(
    make_prepared: Prepared, wordpiece: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write(make_prepared(), wordpiece)
    folder = make_prepared()
    healthy, calls = SlateTokenizer.prefixes, itertools.count()

    def fail(self: Any, texts: list[str]) -> Any:
        if next(calls) == 1:
            raise RuntimeError("the disk is full")
        return healthy(self, texts)

    monkeypatch.setattr(SlateTokenizer, "prefixes", fail)
    with pytest.raises(RuntimeError, match="the disk is full"):
        write(folder, wordpiece)
    kept = folder / "tokens" / "key.parts"
    assert list((folder / "tokens").iterdir()) == [kept]  # nothing half written, and what is whole stays
    done = {path.name for path in kept.iterdir() if path.is_dir()}
    assert done == {"items-00000", "train-00000"}

    made: list[str] = []
    write_part = token_parts.PartWriter.write
    monkeypatch.setattr(
        token_parts.PartWriter, "write", lambda self, part, out: (made.append(part.name), write_part(self, part, out))
    )
    again = write(folder, wordpiece)
    assert made and not done & set(made) and not kept.exists()
    for path in whole.folder.iterdir():
        assert (again.folder / path.name).read_bytes() == path.read_bytes() or path.name == MEMORY, path.name


@pytest.mark.parametrize("damage", ["record", "array", "other rows"])
def test_a_part_that_is_not_as_it_was_written_is_made_again(
    damage: str, make_prepared: Prepared, wordpiece: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_prepared()
    place, tokenizer = folder / "tokens" / "key", SlateTokenizer(wordpiece, MIDDLE, True, [])
    tokenise_parts(place, folder, tokenizer, silent)
    part = parts_folder(place) / "train-00000"
    if damage == "other rows":
        shutil.rmtree(part)
        shutil.copytree(part.with_name("train-00001"), part)
    else:
        path = part / {"record": "part.json", "array": "item.npy"}[damage]
        content = path.read_bytes()
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    assert write_token_cache(place, folder, tokenizer, silent)
    whole = write(make_prepared(), wordpiece)
    for path in whole.folder.iterdir():
        assert (place / path.name).read_bytes() == path.read_bytes() or path.name == MEMORY, path.name


def _write_beside_others(folder: Path, tokenizer: Any, begin: Any, told: Any) -> None:
    begin.wait()
    made: list[str] = []
    write_part = token_parts.PartWriter.write
    token_parts.PartWriter.write = lambda self, part, out: (made.append(part.name), write_part(self, part, out))  # type: ignore[method-assign, func-returns-value]
    place = folder / "tokens" / "key"
    joined = write_token_cache(place, folder, SlateTokenizer(tokenizer, MIDDLE, True, []), silent)
    told.put((joined, made, TokenCache(place).counts))


@pytest.mark.timeout(300)
def test_processes_share_the_work(make_prepared: Prepared, wordpiece: Any) -> None:
    whole = write(make_prepared(), wordpiece)
    folder = make_prepared()
    context = multiprocessing.get_context("spawn")
    begin, told = context.Event(), context.Queue()
    jobs = [context.Process(target=_write_beside_others, args=(folder, wordpiece, begin, told)) for _ in range(2)]
    for job in jobs:
        job.start()
    begin.set()
    each = [told.get(timeout=240) for _ in jobs]
    for job in jobs:
        job.join()
    assert sum(joined for joined, _, _ in each) == 1 and all(counts == whole.counts for _, _, counts in each)
    parts = [name for _, made, _ in each for name in made]
    files = [path.stem for path in (folder / "slates").iterdir()]
    assert sorted(parts) == sorted(["items-00000", *files])  # each once
    for path in whole.folder.iterdir():
        assert (folder / "tokens" / "key" / path.name).read_bytes() == path.read_bytes() or path.name == MEMORY
    assert [path.name for path in (folder / "tokens").iterdir()] == ["key"]


def _hold(lock: Path, held: Any) -> None:
    with hold(lock):
        held.set()
        time.sleep(600)


@pytest.mark.timeout(300)
def test_a_part_of_a_process_that_died_is_taken_over(make_prepared: Prepared, wordpiece: Any) -> None:
    folder = make_prepared()
    place = folder / "tokens" / "key"
    parts_folder(place).mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    job = context.Process(target=_hold, args=(parts_folder(place) / "train-00000.lock", held), daemon=True)
    job.start()
    assert held.wait(240)
    begun = time.monotonic()
    threading.Timer(1.0, job.kill).start()
    assert write_token_cache(place, folder, SlateTokenizer(wordpiece, MIDDLE, True, []), silent)
    assert time.monotonic() - begun >= 1.0


def test_two_splits_of_one_shard_have_parts_of_their_own(make_prepared: Prepared, wordpiece: Any) -> None:
    folder = make_prepared()
    apart = write(folder, wordpiece).counts
    manifest = Manifest.read(folder)
    manifest.splits["valid"] = manifest.splits["train"]
    manifest.write(folder)
    shutil.rmtree(folder / "tokens")
    shared = write(folder, wordpiece)
    assert shared.counts["valid"] == shared.counts["train"] == apart["train"] != apart["valid"]
    assert shared.counts["test"] == apart["test"] and not parts_folder(shared.folder).exists()


def test_a_disk_that_changes_what_is_written_is_named(
    make_prepared: Prepared, wordpiece: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_prepared()
    monkeypatch.setattr(token_writer, "part_record", lambda *_: None)
    with pytest.raises(UserError, match=r"key\.parts does not keep what is written into it: 3 times"):
        write(folder, wordpiece)


def test_damaged_shards_are_named(make_prepared: Prepared, wordpiece: Any) -> None:
    folder = make_prepared()
    shard = folder / "slates" / "train-00001.parquet"
    content = shard.read_bytes()
    middle = bytearray(content)
    middle[4 : len(content) // 3] = bytes(len(content) // 3 - 4)  # pages, not the footer
    shard.write_bytes(middle)
    with pytest.raises(UserError, match=r"train-00001\.parquet does not match its hash .* run equipoise prepare again"):
        write(folder, wordpiece)
    shard.write_bytes(content[:-20])
    with pytest.raises(UserError, match=r"train-00001\.parquet does not match its hash"):
        SlateSet(folder, "train")
    shard.unlink()
    with pytest.raises(UserError, match=r"train-00001\.parquet is missing"):
        SlateSet(folder, "train")


@pytest.mark.parametrize("chunk", [1, 20, 10**6])
@pytest.mark.parametrize("negatives", [None, 1, 3])
def test_costs_are_the_tokens_of_the_sampled_slates(
    chunk: int, negatives: int | None, prepared: Path, wordpiece: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_cache, "CHUNK_IMPRESSIONS", chunk)
    slates = SlateSet(prepared, "train", write(prepared, wordpiece))
    for epoch in (0, 5):
        costs = slates.tokens.costs(epoch, negatives, seed=3)
        assert costs.dtype == np.int64
        every = [slates.slate(row, negatives, 3, epoch) for row in range(len(slates))]
        assert costs.tolist() == [len(s.prefix) + sum(map(len, s.candidates)) for s in every]
    if negatives:
        assert not np.array_equal(slates.tokens.costs(0, negatives, 3), slates.tokens.costs(5, negatives, 3))
        assert slates.tokens.costs(0, negatives, 3).sum() < slates.tokens.costs().sum()


def test_workers_and_other_processes_map_the_files_themselves(prepared: Path, wordpiece: Any) -> None:
    slates = SlateSet(prepared, "train", write(prepared, wordpiece))
    assert len(pickle.dumps(slates.tokens)) < 1000
    batches = TrainBatches(slates, BatchOrder(len(slates), 4, 1, 0, seed=1), 2, 128, {})
    copy = pickle.loads(pickle.dumps(batches))
    for number in range(4):
        assert np.array_equal(copy[number].input_ids, batches[number].input_ids)
    loader = DataLoader(batches, batch_size=None, sampler=range(6), num_workers=2)
    for number, batch in enumerate(loader):
        assert np.array_equal(batch.input_ids, batches[number].input_ids)
        assert np.array_equal(batch.row, batches[number].row)


def test_a_split_without_its_tokens_reads_texts_only(prepared: Path) -> None:
    slates = SlateSet(prepared, "valid")
    assert len(slates) == len(slates.rows) == 3
    with pytest.raises(RuntimeError, match="without its token cache"):
        slates.slate(0)


def test_shards_that_changed_after_tokenising_are_refused(make_prepared: Prepared, wordpiece: Any) -> None:
    folder = make_prepared()
    cache = write(folder, wordpiece)
    shard = folder / "slates" / "valid-00000.parquet"
    pq.write_table(pq.read_table(shard).slice(1), shard)
    with pytest.raises(UserError, match=r"valid-00000\.parquet does not match its hash .*: run equipoise prepare"):
        SlateSet(folder, "valid", cache).slate(0)


def test_attributes_have_one_code_per_value(prepared: Path) -> None:
    items = SlateSet(prepared, "valid").items
    codes, values = items.codes("brand")
    assert values == ["national", "own", "unknown"]
    assert codes.dtype == np.int64
    expected = list(itertools.islice(itertools.cycle(["own", "unknown", "national"]), 12))
    assert items.values("brand").tolist() == expected == [values[code] for code in codes]
    with pytest.raises(UserError, match=r"no column 'colour': name one of item_id, brand"):
        items.codes("colour")


def every_candidate(cache: TokenCache, split: str) -> list[list[int]]:
    tokens = cache.split(split)
    return [ids.tolist() for ids in tokens.candidates(np.arange(len(tokens.item)))]


def test_remembered_contexts_are_bounded(
    make_prepared: Prepared, wordpiece: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_prepared()
    whole = write(folder, wordpiece)
    expected = {split: every_candidate(whole, split) for split in ("train", "valid", "test")}
    distinct = len(whole.contexts)
    shutil.rmtree(whole.folder)
    monkeypatch.setattr("equipoise.data.token_writer.MAX_CONTEXTS", 3)
    monkeypatch.setattr(token_parts, "MAX_CONTEXTS", 3)
    monkeypatch.setattr(token_parts, "SLATE_BATCH", 1)
    bounded = write(folder, wordpiece)
    assert len(bounded.contexts) > distinct  # some are there more than once
    assert {split: every_candidate(bounded, split) for split in expected} == expected


@pytest.mark.parametrize("damage", ["zeroed", "flipped", "truncated", "exchanged"])
def test_every_damaged_file_is_refused(damage: str, make_prepared: Prepared, wordpiece: Any) -> None:
    folder = write(make_prepared(), wordpiece).folder
    files = sorted(path for path in folder.iterdir() if path.name != MEMORY)
    for path in files:
        content = path.read_bytes()
        other = next(each.read_bytes() for each in files if each.read_bytes() != content)
        flipped = content[:-1] + bytes([content[-1] ^ 1])
        damaged = {"zeroed": bytes(len(content)), "flipped": flipped, "truncated": content[:-3], "exchanged": other}
        if damaged[damage] == content:
            continue
        path.write_bytes(damaged[damage])
        with pytest.raises(UserError, match=r"equipoise tokenize CONFIG"):
            TokenCache(folder)
        path.write_bytes(content)
    TokenCache(folder)


def test_the_cache_of_another_key_is_refused(make_prepared: Prepared, wordpiece: Any) -> None:
    folder = write(make_prepared(), wordpiece).folder
    folder.rename(folder.with_name("other"))
    with pytest.raises(UserError, match="holds the tokens of key: run `equipoise tokenize"):
        TokenCache(folder.with_name("other"))

"""What training reads: the prepared folder (`equipoise prepare`) and its token ids (`equipoise tokenize`)."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from equipoise.common.console import new_table
from equipoise.common.errors import UserError
from equipoise.common.logs import rendered
from equipoise.common.progress import ProgressBar
from equipoise.configs.schema import RunConfig
from equipoise.data.labels import KEPT, labels_of, labels_read
from equipoise.data.manifest import Manifest
from equipoise.data.prepare.masked import mask_all_fields
from equipoise.data.prepare.slates import prepare
from equipoise.data.preview import preview
from equipoise.data.remote_copy import RemoteCopy, told

log = logging.getLogger(__name__)


def prepare_data(config: RunConfig) -> Manifest:
    """Prepare `config.data.folder` and log its counts, notes and dropped rows; then tokenise it.

    Returns:
        What the folder holds: counts, label rates and hashes.

    Raises:
        UserError: bad input, several processes were launched, or the backbone's tokenizer cannot be loaded (the slates
            are complete then).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("equipoise prepare uses all cores by itself: run it once, without a launcher")
    labels, read = labels_of(config.objectives), labels_read(config.objectives)
    with ProgressBar("preparing") as bar:
        manifest = prepare(config.data, bar.stage, labels, read)
    log.info(rendered(_counts(manifest, f"prepared {config.data.folder}")))
    for reason, rows in manifest.dropped.items():
        log.info(f"left out: {rows:,} {reason}")
    for note in manifest.notes:
        log.info(f"note: {note}")
    _log_preview(config)
    _write_token_cache(config)
    if config.train.feature_dropout:
        masked = mask_all_fields(config.data)
        log.info(f"train.feature_dropout: the same requests, as of anonymous users, in {masked.folder}")
        prepare(masked, labels=labels, read=read)
        _write_token_cache(config.model_copy(update={"data": masked}))
    _write_beside(config)
    upload(config)
    return manifest


def upload(config: RunConfig, prune: bool = False) -> None:
    """Copy the prepared folder of a configuration to its `data.remote`, where it has one.

    Args:
        config: the configuration.
        prune: delete files of earlier states there.

    Raises:
        UserError: the folder is not prepared, or the place cannot be reached.
    """
    for copy, folder in _copies(config):
        log.info(f"uploaded {folder} to {copy.url}: {told(copy.upload(folder, prune))}")


def download(config: RunConfig) -> None:
    """Copy what this machine lacks of the prepared folder of a configuration from its `data.remote`.

    Raises:
        UserError: there is no copy, the folder holds other data, or the place cannot be reached.
    """
    for copy, folder in _copies(config):
        log.info(f"downloaded {folder} from {copy.url}: {told(copy.download(folder))}")


def _copies(config: RunConfig) -> Iterator[tuple[RemoteCopy, Path]]:
    """Copies of the folders that a configuration trains on, with these; none where it names no place."""
    masked = [mask_all_fields(config.data)] if config.train.feature_dropout else []
    for data in (config.data, *masked):
        if data.remote is not None:
            yield RemoteCopy(data.remote), data.folder


def _log_preview(config: RunConfig) -> None:
    """Log one prompt, the share of requests with a history, and what looks wrong; `equipoise preview` shows more."""
    found = preview(config.data.folder, examples=1, candidates=1)
    for example in found.examples:
        log.info(f"a prefix: {example.prefix or '(empty)'}")
        for text, context, *_ in example.candidates:
            log.info(f"a candidate: {', '.join(part for part in (text, context) if part)}")
    if found.histories:
        shares = ", ".join(f"{split} {share:.0%}" for split, share in found.histories.items())
        log.info(f"requests with a history: {shares}")
    for warning in found.warnings:
        log.warning(warning)


def write_tokens(config: RunConfig, processes: int = 1) -> None:
    """Write the token cache of `config`, the vectors of its things and its priors, or say that they are there.

    Several that run at once, on any number of machines, share the tokens; one of them does the rest.

    Args:
        config: the configuration.
        processes: of this machine that tokenise.

    Raises:
        UserError: the folder is not prepared, or the limits do not fit the backbone.
    """
    made = _write_token_cache(config, processes)
    rank = os.environ.get("RANK")
    if rank == "0" or (rank is None and made is not False):
        _write_beside(config)
        upload(config)
    elif rank is None:
        log.info("another process has put the tokens together, and makes what stands beside them")


def _write_beside(config: RunConfig) -> None:
    """What stands beside texts and features: vectors of things, the priors, which read their similarities, and what
    recall begins as."""
    if config.data.comparison is not None:
        _write_vectors(config)
    _fit_priors(config)
    if config.objectives.recall is not None:
        _fit_sources(config)


def _write_vectors(config: RunConfig) -> None:
    from equipoise.train.thing_vectors import make_vectors, thing_columns
    from equipoise.train.token_caches import find_tokens

    vectors, made = make_vectors(config)
    if made:
        log.info(f"vectors of {len(vectors.vectors):,} things: {vectors.folder}")
    tokens = find_tokens(config)
    for split in tokens.counts:
        thing_columns(tokens, vectors, split)


def _fit_priors(config: RunConfig) -> None:
    from equipoise.train.priors import find_priors
    from equipoise.train.thing_vectors import find_vectors
    from equipoise.train.token_caches import find_tokens

    vectors = find_vectors(config) if config.data.comparison is not None else None
    store = find_priors(config, find_tokens(config), vectors)
    if store is not None:
        names = ", ".join(f"{name} ({spec.method})" for name, spec in store.priors.specs.items())
        log.info(f"priors: {store.folder}: {names}")


def _fit_sources(config: RunConfig) -> None:
    from equipoise.train.recall_sources import find_sources
    from equipoise.train.token_caches import find_tokens

    sources = find_sources(config, find_tokens(config))
    if sources is not None:
        width = sources.axes.shape[1]
        vectors = f"projections of width {width} of what was bought" if width else "no projections: they did not help"
        log.info(f"sources of recall over {len(sources):,} items: popularity, bought, co-purchase, titles; {vectors}")


def _write_token_cache(config: RunConfig, processes: int = 1) -> bool | None:
    """As `make_tokens`, and log what came of it."""
    from equipoise.train.token_caches import check_lengths, make_tokens  # transformers loads only now

    check_lengths(config)
    cache, made = make_tokens(config, processes=processes)
    if made is None:
        log.info(f"nothing to do: {cache.folder} is complete")
        return None
    log.info(f"tokens: {cache.folder}")
    for split, counts in cache.counts.items():
        log.info(
            f"{split}: {counts.prefixes:,} prefixes ({counts.cut_prefixes:,} cut at tokens.max_prefix), "
            f"{counts.candidates:,} candidates ({counts.cut_candidates:,} cut at tokens.max_candidate)"
        )
    return made


def _counts(manifest: Manifest, title: str) -> Table:
    """The counts of every split, one column each."""
    table = new_table(title, [""], list(manifest.splits))
    splits = list(manifest.splits.values())
    labels = [label for label in KEPT if label not in manifest.absent_labels]
    for name in ("requests", "slates", "impressions", *(f"{label}s" for label in labels)):
        table.add_row(name, *(f"{getattr(split, name):,}" for split in splits))
    for label in labels:
        table.add_row(f"{label} rate", *(f"{getattr(split, f'{label}_rate'):.2%}" for split in splits))
    table.add_row("first request", *(split.first[:10] for split in splits))
    table.add_row("last request", *(split.last[:10] for split in splits))
    return table

"""The token cache that a configuration reads: found, made by a single process, or asked for in one sentence."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from equipoise.common.errors import UserError
from equipoise.common.process import usable_cores, with_variables
from equipoise.common.progress import ProgressBar
from equipoise.configs.schema import RunConfig
from equipoise.data.manifest import Manifest
from equipoise.data.remote_copy import bring
from equipoise.data.token_cache import TokenCache, cache_key
from equipoise.data.token_writer import is_complete, parts_folder, tokenise_parts, write_token_cache
from equipoise.data.tokens import SlateTokenizer
from equipoise.modeling.base_config import is_encoder, load_model_config, load_tokenizer
from equipoise.modeling.prompt_limit import prompt_limit

FOLDER = "tokens"


@dataclass(frozen=True)
class CachePlace:
    """Where a configuration's token cache lies, and what makes it."""

    folder: Path
    tokenizer: Any
    encoder: bool

    @classmethod
    def of(cls, config: RunConfig) -> "CachePlace":
        """Look at the prepared folder and the tokenizer; nothing is tokenised.

        Raises:
            UserError: the folder is not prepared, or the tokenizer cannot be loaded.
        """
        bring(config.data)
        manifest = Manifest.read(config.data.folder)
        encoder = is_encoder(load_model_config(config.backbone))
        tokenizer = load_tokenizer(config.backbone)
        key = cache_key(tokenizer, config.tokens, encoder, manifest)
        return cls(config.data.folder / FOLDER / key, tokenizer, encoder)

    def make(
        self, config: RunConfig, before: tuple[Path, TokenCache] | None = None, processes: int = 1
    ) -> tuple[TokenCache, bool]:
        """Write the cache, with a progress bar on stderr, and open it; others that do the same share the work.

        Args:
            config: whose cache it is.
            before: as for `write_token_cache`.
            processes: of this machine that tokenise.

        Returns:
            The cache, and whether this process put it together.

        Raises:
            UserError: the tokenizer lacks a token that ends texts, or a file of the prepared folder is damaged.
        """
        tokenizer = SlateTokenizer(self.tokenizer, config.tokens, self.encoder, [])
        with ProgressBar("tokenising") as bar, _helpers(config, self.folder, processes - 1):
            made = write_token_cache(self.folder, config.data.folder, tokenizer, bar.stage, before)
        return TokenCache(self.folder), made


@contextmanager
def _helpers(config: RunConfig, folder: Path, count: int) -> Iterator[None]:
    """Further processes that make parts of a cache; what they leave undone is done without them."""
    threads = {"RAYON_NUM_THREADS": str(max(1, usable_cores() // (count + 1)))} if count > 0 else {}
    helpers = [get_context("spawn").Process(target=_help, args=(config,), daemon=True) for _ in range(count)]
    with with_variables(**threads):
        try:
            for helper in helpers:
                helper.start()
            yield
        finally:
            for helper in helpers:
                helper.terminate()
                helper.join()
            if helpers and is_complete(folder):
                shutil.rmtree(parts_folder(folder), ignore_errors=True)  # one that began late has made it again


def _help(config: RunConfig) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    with suppress(UserError, FileNotFoundError):  # what is wrong that one says; the parts are gone once they are joined
        place = CachePlace.of(config)
        if not is_complete(place.folder):
            tokenizer = SlateTokenizer(place.tokenizer, config.tokens, place.encoder, [])
            tokenise_parts(place.folder, config.data.folder, tokenizer, lambda stage, share: None)


def check_lengths(config: RunConfig) -> None:
    """Refuse token limits that the backbone's positions cannot hold.

    Raises:
        UserError: names the setting to lower.
    """
    limit = prompt_limit(load_model_config(config.backbone))
    wanted = config.tokens.max_prefix + config.tokens.max_candidate
    if limit is None or wanted <= limit.tokens:
        return
    room = limit.tokens - config.tokens.max_candidate
    way = f"lower tokens.max_prefix to at most {room}"
    if room < 8:  # a prefix has a start token and a word or two
        way = f"lower tokens.max_candidate, and tokens.max_prefix so that both together are at most {limit.tokens}"
    raise UserError(
        f"tokens.max_prefix + tokens.max_candidate = {wanted}, but {config.backbone.path} {limit.why}: {way}"
    )


def find_tokens(config: RunConfig) -> TokenCache:
    """The token cache of a job, before its processes meet; a single process makes one that is missing.

    Raises:
        UserError: the cache is missing and the job has several processes, or it is damaged.
    """
    cache_place = CachePlace.of(config)
    if cache_place.folder.is_dir():
        return TokenCache(cache_place.folder)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"{config.data.folder} holds no tokens for this tokenizer and these limits: run `equipoise tokenize "
            "CONFIG` with the same settings, then launch again"
        )
    return cache_place.make(config)[0]


def make_tokens(
    config: RunConfig, before: tuple[Path, TokenCache] | None = None, processes: int = 1
) -> tuple[TokenCache, bool | None]:
    """The token cache of a configuration; a damaged one is written again.

    Args:
        config: the configuration.
        before: prepared folder and tokens of the part before, whose items are not tokenised again.
        processes: of this machine that tokenise.

    Returns:
        The cache, and whether this process put it together; None where it was there.

    Raises:
        UserError: the folder is not prepared, or the tokenizer cannot be loaded.
    """
    cache_place = CachePlace.of(config)
    if is_complete(cache_place.folder):
        return TokenCache(cache_place.folder), None
    return cache_place.make(config, before, processes)

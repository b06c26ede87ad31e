"""The token cache that a configuration reads: found, made by a single process, or asked for in one sentence."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equipoise.common.errors import UserError
from equipoise.common.progress import ProgressBar
from equipoise.configs.schema import RunConfig
from equipoise.data.manifest import Manifest
from equipoise.data.token_cache import TokenCache, cache_key
from equipoise.data.token_writer import write_token_cache
from equipoise.data.tokens import SlateTokenizer
from equipoise.modeling.backbone import is_encoder, load_model_config, load_tokenizer

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
        manifest = Manifest.read(config.data.folder)
        encoder = is_encoder(load_model_config(config.backbone))
        tokenizer = load_tokenizer(config.backbone)
        key = cache_key(tokenizer, config.tokens, encoder, manifest)
        return cls(config.data.folder / FOLDER / key, tokenizer, encoder)

    def make(self, config: RunConfig, before: tuple[Path, TokenCache] | None = None) -> TokenCache:
        """Write the cache, with a progress bar on stderr, and open it; `before`: as for `write_token_cache`.

        Raises:
            UserError: the tokenizer lacks a token that ends texts, or a file of the prepared folder is damaged.
        """
        tokenizer = SlateTokenizer(self.tokenizer, config.tokens, self.encoder, [])
        with ProgressBar("tokenising") as bar:
            write_token_cache(self.folder, config.data.folder, tokenizer, bar.stage, before)
        return TokenCache(self.folder)


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
    return cache_place.make(config)


def make_tokens(config: RunConfig, before: tuple[Path, TokenCache] | None = None) -> tuple[TokenCache, bool]:
    """The token cache of a configuration, and whether it had to be made; a damaged one is written again.

    `before`: prepared folder and tokens of the part before, whose items are not tokenised again.

    Raises:
        UserError: the folder is not prepared, or the tokenizer cannot be loaded.
    """
    cache_place = CachePlace.of(config)
    if cache_place.folder.is_dir():
        try:
            return TokenCache(cache_place.folder), False
        except UserError:
            pass  # damaged: it is replaced
    return cache_place.make(config, before), True

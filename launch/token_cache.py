"""equipoise tokenize: turns the texts of a prepared folder into token ids, for one backbone and its token limits."""

import os

from rich.console import Console

from equipoise.common.errors import UserError
from equipoise.configs.schema import RunConfig
from equipoise.train.assemble import check_lengths
from equipoise.train.token_caches import make_tokens


def write_tokens(config: RunConfig) -> None:
    """Write the token cache of `config`, or say that it is there.

    Raises:
        UserError: the folder is not prepared, the limits do not fit the backbone, or several processes were launched.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("equipoise tokenize uses all cores by itself: run it once, without a launcher")
    check_lengths(config)
    cache, made = make_tokens(config)
    out = Console(highlight=False)
    if not made:
        out.print(f"nothing to do: {cache.folder} is complete", soft_wrap=True)
        return
    out.print(f"tokens: {cache.folder}", soft_wrap=True)
    for split, counts in cache.counts.items():
        out.print(
            f"{split}: {counts.prefixes:,} prefixes ({counts.cut_prefixes:,} cut at tokens.max_prefix), "
            f"{counts.candidates:,} candidates ({counts.cut_candidates:,} cut at tokens.max_candidate)",
            soft_wrap=True,
        )

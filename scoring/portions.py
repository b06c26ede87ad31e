"""From files of requests to token ids: read, rendered and tokenised, a few requests at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from equipoise.data.requests.files import Block, read_blocks
from equipoise.data.requests.forms import Request, RequestForm
from equipoise.modeling.cached_scorer import TokenSlate
from equipoise.serving.request_scorer import RequestTokenizer


@dataclass(frozen=True)
class Portion:
    """Consecutive requests of a block, and their token ids. `last`: the block ends with it."""

    block: Block
    requests: list[Request]
    slates: list[TokenSlate]
    last: bool


def read_portions(
    blocks: Sequence[Block], forms: Mapping[Path, RequestForm], tokenizer: RequestTokenizer
) -> Iterator[Portion]:
    """The portions of blocks, in their order. A block's portions do not depend on the others asked for.

    Args:
        blocks: file after file.
        forms: of every file, by path.
        tokenizer: whose items are the catalogue's.

    Raises:
        UserError: a file or a request cannot be read.
    """
    for path, blocks_of_file in groupby(blocks, key=lambda block: block.file.path):
        form = forms[path]
        for block, start, rows in read_blocks(list(blocks_of_file), form.columns):
            first = start
            for requests in form.requests(rows, start):
                first += len(requests)
                slates = [
                    tokenizer.slate(one.prefix, one.items, one.contexts, one.features, one.things) for one in requests
                ]
                yield Portion(block, requests, slates, first == block.stop)

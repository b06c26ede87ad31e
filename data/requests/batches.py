"""From files of requests to batches for the model: read, rendered, tokenised and grouped, a few requests at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from equipoise.data.batches import Slate, SlateBatch, build_batch
from equipoise.data.features import Scales, standardised
from equipoise.data.requests.files import Block, read_blocks
from equipoise.data.requests.forms import Request, RequestForm
from equipoise.data.token_budget import token_groups
from equipoise.data.tokens import SlateTokenizer


@dataclass(frozen=True)
class Portion:
    """Consecutive requests of a block, with batches that hold each of them once.

    A batch's `row` names the requests by their index here. `last`: the block ends with it.
    """

    block: Block
    requests: list[Request]
    batches: list[SlateBatch]
    last: bool


class RequestBatches:
    """Reads blocks as portions.

    Args:
        forms: of every file, by path.
        tokenizer: whose items are the catalogue's.
        max_tokens: most tokens of a batch; a longer slate is a batch of its own.
        max_row: most tokens of a row; a longer slate goes on in further rows that repeat its prefix.
        scales: how the features of the forms are standardised.
    """

    def __init__(
        self,
        forms: Mapping[Path, RequestForm],
        tokenizer: SlateTokenizer,
        max_tokens: int,
        max_row: int,
        scales: Scales | None = None,
    ) -> None:
        self.scales: Scales = scales or {}
        self.forms, self.tokenizer = forms, tokenizer
        self.max_tokens, self.max_row = max_tokens, max_row

    def read(self, blocks: Sequence[Block]) -> Iterator[Portion]:
        """The portions of blocks, in their order. A block's portions do not depend on the others asked for.

        Raises:
            UserError: a file or a request cannot be read.
        """
        for path, mine in groupby(blocks, key=lambda block: block.file.path):
            form = self.forms[path]
            for block, start, rows in read_blocks(list(mine), form.columns):
                first = start
                for requests in form.requests(rows, start):
                    first += len(requests)
                    yield Portion(block, requests, self._batches(requests), first == block.stop)

    def _batches(self, requests: Sequence[Request]) -> list[SlateBatch]:
        slates = [self._slate(row, request) for row, request in enumerate(requests)]
        sizes = [len(slate.prefix) + sum(map(len, slate.candidates)) for slate in slates]
        return [
            build_batch([slates[index] for index in group], self.max_row, self.tokenizer.pad_id)
            for group in token_groups(sizes, self.max_tokens)
        ]

    def _slate(self, row: int, request: Request) -> Slate:
        unknown = np.zeros(len(request.items), dtype=np.int8)
        return Slate(
            row=row,
            prefix=self.tokenizer.prefix(request.prefix),
            candidates=self.tokenizer.candidates(request.items, request.contexts),
            item=np.asarray(request.items, dtype=np.int64),
            click=unknown,
            conversion=unknown,
            features=None if request.features is None else standardised(self.scales, request.features),
        )

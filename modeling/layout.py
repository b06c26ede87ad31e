"""Where the tokens of a batch of slates lie once padding is gone: all prefixes end to end, all candidates end to end.

Shape suffixes: R rows, T tokens of a row, N candidates, L tokens of the longest candidate, P tokens of the longest
prefix, C candidate tokens of the fullest row, F tokens of a flat stretch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch


@dataclass(frozen=True)
class Spread:
    """A flat stretch of tokens (F, …) laid out as padded lines (B, W, …), and back.

    Attributes:
        shape: (B, W).
        index: int64 (B·W,), the token in each place, 0 where there is none; None where nothing is padded.
        places: int64 (F,), the place of each token among the B·W; None where nothing is padded.
        empty: bool (B, W), True where there is no token; None where nothing is padded.
    """

    shape: tuple[int, int]
    index: torch.Tensor | None
    places: torch.Tensor | None
    empty: torch.Tensor | None

    @staticmethod
    def of(lengths_B: torch.Tensor, longest: int, even: bool) -> "Spread":
        """Lines of the given lengths (int64), one after another in the flat stretch."""
        count = lengths_B.shape[0]
        if even:
            return Spread((count, longest), None, None, None)
        starts = lengths_B.cumsum(0) - lengths_B
        column = torch.arange(longest, device=lengths_B.device)
        there = column < lengths_B[:, None]
        index = torch.where(there, starts[:, None] + column, 0).reshape(-1)
        return Spread((count, longest), index, there.reshape(-1).nonzero().squeeze(1), ~there)

    def lay(self, flat: torch.Tensor) -> torch.Tensor:
        """(F, …) → (B, W, …); what stands in empty places is any token's."""
        laid = flat if self.index is None else flat.index_select(0, self.index)
        return laid.reshape(*self.shape, *flat.shape[1:])

    def lay_zero(self, flat: torch.Tensor) -> torch.Tensor:
        """(F, …) → (B, W, …), zeros in empty places."""
        if self.places is None:
            return self.lay(flat)
        laid = flat.new_zeros(self.shape[0] * self.shape[1], *flat.shape[1:])
        return laid.index_copy_(0, self.places, flat).view(*self.shape, *flat.shape[1:])

    def gather(self, laid: torch.Tensor) -> torch.Tensor:
        """(B, W, …) → (F, …)."""
        flat = laid.reshape(self.shape[0] * self.shape[1], *laid.shape[2:])
        return flat if self.places is None else flat.index_select(0, self.places)

    def mask(self, dtype: torch.dtype) -> torch.Tensor | None:
        """Additive mask over the places as keys, (B, 1, 1, W): −inf where empty; None where nothing is padded."""
        if self.empty is None:
            return None
        return torch.zeros(self.shape, dtype=dtype, device=self.empty.device).masked_fill_(self.empty, -torch.inf)[
            :, None, None
        ]


class _Lay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flat: torch.Tensor, spread: Spread) -> torch.Tensor:
        ctx.spread = spread
        return spread.lay(flat)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.spread.gather(grad), None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, laid: torch.Tensor, spread: Spread) -> torch.Tensor:
        ctx.spread = spread
        return spread.gather(laid)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.spread.lay_zero(grad), None


def lay(flat: torch.Tensor, spread: Spread) -> torch.Tensor:
    """`spread.lay` with a gradient in which empty places have no part."""
    return spread.lay(flat) if spread.index is None else _Lay.apply(flat, spread)


def gather(laid: torch.Tensor, spread: Spread) -> torch.Tensor:
    """`spread.gather` with a gradient that is zero in empty places."""
    return spread.gather(laid) if spread.places is None else _Gather.apply(laid, spread)


@dataclass(frozen=True)
class SlateLayout:
    """The flat stretches of one batch.

    Attributes:
        prefix_tokens: int64 (F,), the prefix tokens of all rows, as indices into the R·T tokens of the batch.
        candidate_tokens: int64 (F,), the tokens of all candidates, likewise.
        prefixes: prefix tokens as lines (R, P).
        rows: candidate tokens as lines (R', C), those of one row together; R' counts the rows `first_row` and on.
        own: candidate tokens as lines (N, L), one candidate each.
        lengths_N: int64, tokens of each candidate.
        row_N: int64, the row of each candidate.
        most_per_row: candidates of the row that has most.
        first_row: the row whose prefix the first of `rows` attends to.
        first: the number of the first candidate (0, unless the layout is a chunk of another).
    """

    prefix_tokens: torch.Tensor
    candidate_tokens: torch.Tensor
    prefixes: Spread
    rows: Spread
    own: Spread
    lengths_N: torch.Tensor
    row_N: torch.Tensor
    most_per_row: int
    first_row: int = 0
    first: int = 0

    @staticmethod
    def of(segment_ids_RT: torch.Tensor, candidate_tokens_NL: torch.Tensor) -> "SlateLayout":
        """The layout of a batch as `SlateModel.forward` gets it; candidates must be numbered row after row."""
        rows, width = segment_ids_RT.shape
        present_NL = candidate_tokens_NL >= 0
        lengths_N = present_NL.sum(1)
        row_N = candidate_tokens_NL[:, 0] // width
        prefix_R = (segment_ids_RT == 0).sum(1)
        filled_R = torch.zeros_like(prefix_R).index_add_(0, row_N, lengths_N)
        limits = [f(x) for x in (prefix_R, filled_R, lengths_N) for f in (torch.min, torch.max)]
        limits.append(torch.bincount(row_N, minlength=rows).max())
        low_p, high_p, low_c, high_c, low_n, high_n, most = torch.stack(limits).tolist()  # one wait for the device
        return SlateLayout(
            prefix_tokens=(segment_ids_RT.reshape(-1) == 0).nonzero().squeeze(1),
            candidate_tokens=candidate_tokens_NL[present_NL],
            prefixes=Spread.of(prefix_R, high_p, low_p == high_p),
            rows=Spread.of(filled_R, high_c, low_c == high_c),
            own=Spread.of(lengths_N, high_n, low_n == high_n),
            lengths_N=lengths_N,
            row_N=row_N,
            most_per_row=most,
        )

    @staticmethod
    def end_to_end(prefix_R: list[int], lengths_RN: list[list[int]], device: torch.device) -> "SlateLayout":
        """The layout of rows whose prefixes stand end to end, and after them all candidates end to end.

        Args:
            prefix_R: tokens of each row's prefix.
            lengths_RN: tokens of each candidate, row by row, at least one candidate each.
            device: of the tensors.
        """
        counts, filled = [len(lengths) for lengths in lengths_RN], [sum(lengths) for lengths in lengths_RN]
        lengths = [length for row in lengths_RN for length in row]

        def spread(sizes: list[int]) -> Spread:
            return Spread.of(torch.tensor(sizes, device=device), max(sizes), min(sizes) == max(sizes))

        first, last = sum(prefix_R), sum(prefix_R) + sum(lengths)
        return SlateLayout(
            prefix_tokens=torch.arange(first, device=device),
            candidate_tokens=torch.arange(first, last, device=device),
            prefixes=spread(prefix_R),
            rows=spread(filled),
            own=spread(lengths),
            lengths_N=torch.tensor(lengths, device=device),
            row_N=torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(device),
            most_per_row=max(counts),
        )

    @cached_property
    def last_rows(self) -> Spread:
        """The candidates' last tokens as lines, those of one row together; made once for all towers."""
        counts_R = torch.bincount(self.row_N - self.first_row, minlength=self.rows.shape[0])
        even = self.most_per_row * len(counts_R) == len(self.row_N)
        return Spread.of(counts_R, self.most_per_row, even)

    @property
    def last_N(self) -> torch.Tensor:
        """int64 (N,), the place of each candidate's last token among the candidate tokens."""
        return self.lengths_N.cumsum(0) - 1

    def chunks(self, most_tokens: int) -> Iterator["SlateLayout"]:
        """The layout in pieces of whole candidates with at most so many candidate tokens (one candidate at least)."""
        if self.candidate_tokens.shape[0] <= most_tokens:
            yield self
            return
        lengths, rows = self.lengths_N.tolist(), self.row_N.tolist()
        start = first = tokens = 0
        for number, length in enumerate([*lengths, most_tokens + 1]):
            if number > start and tokens + length > most_tokens:
                yield self._piece(start, number, first, first + tokens, rows[start], rows[number - 1])
                start, first, tokens = number, first + tokens, 0
            tokens += length

    def _piece(self, start: int, stop: int, first: int, last: int, low: int, high: int) -> "SlateLayout":
        lengths_N, row_N = self.lengths_N[start:stop], self.row_N[start:stop]
        filled_R = torch.zeros(high - low + 1, dtype=torch.int64, device=row_N.device)
        filled_R.index_add_(0, row_N - low, lengths_N)
        fullest, longest = int(filled_R.max()), int(lengths_N.max())
        return SlateLayout(
            prefix_tokens=self.prefix_tokens,
            candidate_tokens=self.candidate_tokens[first:last],
            prefixes=self.prefixes,
            rows=Spread.of(filled_R, fullest, bool((filled_R == fullest).all())),
            own=Spread.of(lengths_N, longest, bool((lengths_N == longest).all())),
            lengths_N=lengths_N,
            row_N=row_N,
            most_per_row=int(torch.bincount(row_N - low).max()),
            first_row=low,
            first=start,
        )

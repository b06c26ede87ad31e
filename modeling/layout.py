"""Where the tokens of a batch of slates are once padding is gone: all prefixes end to end, all candidates end to end.

Shape suffixes as in modeling/model.py; B rows of W positions (or more) hold the tokens of a flat stretch, padded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch


@dataclass(frozen=True)
class Padding:
    """How a flat stretch of tokens (F, …) is padded to rows (B, W, …), and back.

    Attributes:
        shape: (B, W).
        token_of_position: int64 (B·W,), the token at each position, 0 where there is none; None: nothing is padded.
        position_of_token: int64 (F,), the position of each token among the B·W; None: nothing is padded.
        is_padding: bool (B, W), True where there is no token; None: nothing is padded.
    """

    shape: tuple[int, int]
    token_of_position: torch.Tensor | None = None
    position_of_token: torch.Tensor | None = None
    is_padding: torch.Tensor | None = None

    @staticmethod
    def of(lengths_B: torch.Tensor, longest: int, even: bool) -> "Padding":
        """Rows of the given lengths (int64), one after another in the flat stretch; `even`: all are the longest."""
        count = lengths_B.shape[0]
        if even:
            return Padding((count, longest))
        starts = lengths_B.cumsum(0) - lengths_B
        column = torch.arange(longest, device=lengths_B.device)
        is_token = column < lengths_B[:, None]
        token_of_position = torch.where(is_token, starts[:, None] + column, 0).reshape(-1)
        return Padding((count, longest), token_of_position, is_token.reshape(-1).nonzero().squeeze(1), ~is_token)

    def pad(self, flat: torch.Tensor) -> torch.Tensor:
        """(F, …) → (B, W, …); padding holds any token's values."""
        padded = flat if self.token_of_position is None else flat.index_select(0, self.token_of_position)
        return padded.reshape(*self.shape, *flat.shape[1:])

    def pad_with_zeros(self, flat: torch.Tensor) -> torch.Tensor:
        """(F, …) → (B, W, …); padding holds zeros."""
        if self.position_of_token is None:
            return self.pad(flat)
        padded = flat.new_zeros(self.shape[0] * self.shape[1], *flat.shape[1:])
        return padded.index_copy_(0, self.position_of_token, flat).view(*self.shape, *flat.shape[1:])

    def unpad(self, padded: torch.Tensor) -> torch.Tensor:
        """(B, W, …) → (F, …)."""
        flat = padded.reshape(self.shape[0] * self.shape[1], *padded.shape[2:])
        return flat if self.position_of_token is None else flat.index_select(0, self.position_of_token)

    def repeated(self, times: int) -> "Padding":
        """The padding of several such stretches, one after another."""
        shape = (times * self.shape[0], self.shape[1])
        if self.token_of_position is None or self.position_of_token is None or self.is_padding is None:
            return Padding(shape)
        copy = torch.arange(times, device=self.is_padding.device)[:, None]
        tokens, positions = self.position_of_token.shape[0], self.token_of_position.shape[0]
        return Padding(
            shape,
            (self.token_of_position + copy * tokens).reshape(-1),
            (self.position_of_token + copy * positions).reshape(-1),
            self.is_padding.repeat(times, 1),
        )

    def mask(self, dtype: torch.dtype) -> torch.Tensor | None:
        """Additive mask over the positions as keys, (B, 1, 1, W): −inf at padding; None where nothing is padded."""
        if self.is_padding is None:
            return None
        zeros = torch.zeros(self.shape, dtype=dtype, device=self.is_padding.device)
        return zeros.masked_fill_(self.is_padding, -torch.inf)[:, None, None]


class _Pad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flat: torch.Tensor, padding: Padding) -> torch.Tensor:
        ctx.padding = padding
        return padding.pad(flat)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.padding.unpad(grad), None


class _Unpad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, padded: torch.Tensor, padding: Padding) -> torch.Tensor:
        ctx.padding = padding
        return padding.unpad(padded)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.padding.pad_with_zeros(grad), None


def pad(flat: torch.Tensor, padding: Padding) -> torch.Tensor:
    """`padding.pad` with a gradient in which padding has no part."""
    return padding.pad(flat) if padding.token_of_position is None else _Pad.apply(flat, padding)


def unpad(padded: torch.Tensor, padding: Padding) -> torch.Tensor:
    """`padding.unpad` with a gradient that is zero at padding."""
    return padding.unpad(padded) if padding.position_of_token is None else _Unpad.apply(padded, padding)


@dataclass(frozen=True)
class SlateLayout:
    """The flat stretches of one batch.

    Attributes:
        prefix_tokens: int64 (F,), the prefix tokens of all rows, as indices into the R·T tokens of the batch.
        candidate_tokens: int64 (F,), the tokens of all candidates, likewise.
        prefixes: prefix tokens padded to (R, P).
        rows: candidate tokens padded to (R', W), those of one row together; R' counts the rows `first_row` and on.
        own: candidate tokens padded to (N, L), one candidate each.
        lengths_N: int64, tokens of each candidate.
        row_N: int64, the row of each candidate.
        most_per_row: candidates of the row that has most.
        first_row: the row whose prefix the first of `rows` attends to.
        first: the number of the first candidate (0, unless the layout is a chunk of another).
    """

    prefix_tokens: torch.Tensor
    candidate_tokens: torch.Tensor
    prefixes: Padding
    rows: Padding
    own: Padding
    lengths_N: torch.Tensor
    row_N: torch.Tensor
    most_per_row: int
    first_row: int = 0
    first: int = 0

    @staticmethod
    def of(segment_ids_RT: torch.Tensor, candidate_tokens_NL: torch.Tensor) -> "SlateLayout":
        """The layout of a batch as the model gets it; candidates must be numbered row after row."""
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
            prefixes=Padding.of(prefix_R, high_p, low_p == high_p),
            rows=Padding.of(filled_R, high_c, low_c == high_c),
            own=Padding.of(lengths_N, high_n, low_n == high_n),
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

        def padding(sizes: list[int]) -> Padding:
            return Padding.of(torch.tensor(sizes, device=device), max(sizes), min(sizes) == max(sizes))

        first, last = sum(prefix_R), sum(prefix_R) + sum(lengths)
        return SlateLayout(
            prefix_tokens=torch.arange(first, device=device),
            candidate_tokens=torch.arange(first, last, device=device),
            prefixes=padding(prefix_R),
            rows=padding(filled),
            own=padding(lengths),
            lengths_N=torch.tensor(lengths, device=device),
            row_N=torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(device),
            most_per_row=max(counts),
        )

    def repeated(self, times: int) -> "SlateLayout":
        """The layout of several batches like this one: all their prefixes, and all their candidates, end to end."""
        copy = torch.arange(times, device=self.row_N.device)[:, None] * self.prefixes.shape[0]
        return SlateLayout(
            prefix_tokens=self.prefix_tokens.repeat(times),
            candidate_tokens=self.candidate_tokens.repeat(times),
            prefixes=self.prefixes.repeated(times),
            rows=self.rows.repeated(times),
            own=self.own.repeated(times),
            lengths_N=self.lengths_N.repeat(times),
            row_N=(self.row_N + copy).reshape(-1),
            most_per_row=self.most_per_row,
        )

    @cached_property
    def last_rows(self) -> Padding:
        """The candidates' last tokens padded, those of one row together; made once for all towers."""
        counts_R = torch.bincount(self.row_N - self.first_row, minlength=self.rows.shape[0])
        even = self.most_per_row * len(counts_R) == len(self.row_N)
        return Padding.of(counts_R, self.most_per_row, even)

    @property
    def last_N(self) -> torch.Tensor:
        """int64 (N,), the index of each candidate's last token among the candidate tokens."""
        return self.lengths_N.cumsum(0) - 1

    def of_candidates(self, chosen: Sequence[int]) -> "SlateLayout":
        """The layout of some candidates, in the order in which they are named, as one row."""
        lengths_N = self.lengths_N[list(chosen)]
        ends_N = self.lengths_N.cumsum(0)[list(chosen)]
        starts = torch.repeat_interleave(ends_N - lengths_N.cumsum(0), lengths_N)
        index_F = starts + torch.arange(len(starts), device=lengths_N.device)
        counts = lengths_N.tolist()
        return replace(
            self,
            candidate_tokens=self.candidate_tokens[index_F],
            rows=Padding((1, len(index_F))),
            own=Padding.of(lengths_N, max(counts), min(counts) == max(counts)),
            lengths_N=lengths_N,
            row_N=torch.zeros_like(lengths_N),
            most_per_row=len(counts),
        )

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
            rows=Padding.of(filled_R, fullest, bool((filled_R == fullest).all())),
            own=Padding.of(lengths_N, longest, bool((lengths_N == longest).all())),
            lengths_N=lengths_N,
            row_N=row_N,
            most_per_row=int(torch.bincount(row_N - low).max()),
            first_row=low,
            first=start,
        )

"""A batch of slates as tensors: where data and modeling meet.

Shape suffixes: R rows, T tokens of a row, N candidates, L tokens of the longest candidate, S slates, M slots of the
longest slate. Candidates are numbered slate after slate. A slate too long for one row goes on in further rows that
repeat its prefix; its slots still name all its candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch


@dataclass(frozen=True)
class Slate:
    """One slate, tokenised: the unit from which batches are built.

    Attributes:
        row: its number in the split.
        prefix: token ids.
        candidates: token ids of each candidate.
        item, click, conversion: int arrays, one entry per candidate.
        log_keep: log of the share of its unclicked candidates that were kept (0 where none was left out).
    """

    row: int
    prefix: list[int]
    candidates: list[list[int]]
    item: np.ndarray
    click: np.ndarray
    conversion: np.ndarray
    log_keep: float = 0.0


@dataclass(frozen=True)
class SlateBatch:
    """Tensors of a batch; the first five are what the model reads.

    Attributes:
        input_ids, position_ids, segment_ids: int64 (R, T); segments: −1 padding, 0 prefix, 1, 2, … candidates.
        candidate_tokens: int64 (N, L), index into the flattened R·T tokens, −1 padding.
        slots: int64 (S, M), the candidate in each slot, −1 where a slate is shorter.
        click, conversion: float32 (N,).
        log_keep: float32 (N,), log of the rate at which the slate's unclicked candidates were sampled.
        item: int64 (N,), item_index.
        slate: int64 (N,), which slate of the batch.
        row: int64 (S,), the slate's number in its split.
        attributes: per item attribute its code, int64 (N,).
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    segment_ids: torch.Tensor
    candidate_tokens: torch.Tensor
    slots: torch.Tensor
    click: torch.Tensor
    conversion: torch.Tensor
    log_keep: torch.Tensor
    item: torch.Tensor
    slate: torch.Tensor
    row: torch.Tensor
    attributes: dict[str, torch.Tensor] = field(default_factory=dict)

    def model_inputs(self) -> dict[str, torch.Tensor]:
        """The tensors that the model reads, by argument name."""
        names = ("input_ids", "position_ids", "segment_ids", "candidate_tokens", "slots")
        return {name: getattr(self, name) for name in names}

    def to(self, device: torch.device | str) -> "SlateBatch":
        """The same batch on another device."""
        tensors = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "attributes"}
        return replace(self, **tensors, attributes={k: v.to(device) for k, v in self.attributes.items()})


@dataclass
class _Row:
    ids: list[int]
    positions: list[int]
    segments: list[int]


def _start_row(prefix: list[int]) -> _Row:
    return _Row(list(prefix), list(range(len(prefix))), [0] * len(prefix))


def _lay_rows(slates: Sequence[Slate], max_row: int) -> tuple[list[_Row], list[tuple[int, int, int]]]:
    """Fill rows slate after slate; returns them and (row, first token, length) of every candidate."""
    rows: list[_Row] = []
    spans: list[tuple[int, int, int]] = []
    for slate in slates:
        row, segment = _start_row(slate.prefix), 0
        for ids in slate.candidates:
            if segment and len(row.ids) + len(ids) > max_row:
                rows.append(row)
                row, segment = _start_row(slate.prefix), 0
            segment += 1
            spans.append((len(rows), len(row.ids), len(ids)))
            row.ids += ids
            row.positions += range(len(slate.prefix), len(slate.prefix) + len(ids))
            row.segments += [segment] * len(ids)
        rows.append(row)
    return rows, spans


def _padded(lists: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    width = max(len(values) for values in lists)
    out = np.full((len(lists), width), fill, dtype=np.int64)
    for line, values in zip(out, lists, strict=True):
        line[: len(values)] = values
    return torch.from_numpy(out)


def build_batch(
    slates: Sequence[Slate], max_row: int, pad_id: int, attributes: dict[str, np.ndarray] | None = None
) -> SlateBatch:
    """Pack slates into one batch.

    Args:
        slates: at least one, each with at least one candidate.
        max_row: most tokens of a row; a slate that needs more takes further rows.
        pad_id: the id that fills short rows.
        attributes: per item attribute the codes of all items (int64, by item_index).
    """
    rows, spans = _lay_rows(slates, max_row)
    width = max(len(row.ids) for row in rows)
    tokens = [range(row * width + first, row * width + first + length) for row, first, length in spans]
    counts = [len(slate.candidates) for slate in slates]
    starts = np.cumsum([0, *counts])
    item = np.concatenate([slate.item for slate in slates]).astype(np.int64)
    per_slate = np.array([slate.log_keep for slate in slates], dtype=np.float32)
    return SlateBatch(
        input_ids=_padded([row.ids for row in rows], pad_id),
        position_ids=_padded([row.positions for row in rows], 0),
        segment_ids=_padded([row.segments for row in rows], -1),
        candidate_tokens=_padded(tokens, -1),
        slots=_padded([range(start, start + count) for start, count in zip(starts, counts, strict=False)], -1),
        click=torch.from_numpy(np.concatenate([slate.click for slate in slates]).astype(np.float32)),
        conversion=torch.from_numpy(np.concatenate([slate.conversion for slate in slates]).astype(np.float32)),
        log_keep=torch.from_numpy(np.repeat(per_slate, counts)),
        item=torch.from_numpy(item),
        slate=torch.from_numpy(np.repeat(np.arange(len(slates)), counts)),
        row=torch.tensor([slate.row for slate in slates]),
        attributes={name: torch.from_numpy(codes[item]) for name, codes in (attributes or {}).items()},
    )

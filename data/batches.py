"""A batch of slates as tensors: where data and modeling meet.

Shape suffixes: R rows, T tokens of a row, N candidates, L tokens of the longest candidate, S slates, M positions of the
longest slate; of recall B shoppers and C items that compete in a batch. Candidates are numbered slate after slate. A
slate too long for one row goes on in further rows that repeat its prefix; its positions still name all its candidates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch

from equipoise.data.ragged import RowLengths, run_indices
from equipoise.data.things import SlateThings, join_things


@dataclass(frozen=True)
class Slate:
    """One slate, tokenised: the unit from which batches are built.

    Attributes:
        row: its number in the split.
        prefix: token ids, an int array or a list.
        candidates: token ids of each candidate, int arrays or lists.
        item, click, conversion: int arrays, one entry per candidate.
        log_sampling_rate: log of the fraction of its unclicked candidates that were kept (0 where none was left out).
        features: standardised features, float32 (C, F); None where the heads read none.
        labels: further labels by column, float32, one entry per candidate, NaN where there is none.
        prior: log-odds of the objectives' priors, float32 (C, priors); None where none has one.
        things: what the candidates are compared with; None where they are compared with nothing.
        weight: how much each candidate counts, float32 (C,); None where all count alike.
        examination: how likely its place was looked at, float32 (C,); None where places are not read.
        rest: the candidates that were left out, by item and prior; None where nobody asked for them.
    """

    row: int
    prefix: Sequence[int] | np.ndarray
    candidates: Sequence[Sequence[int] | np.ndarray]
    item: np.ndarray
    click: np.ndarray
    conversion: np.ndarray
    log_sampling_rate: float = 0.0
    features: np.ndarray | None = None
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    prior: np.ndarray | None = None
    things: SlateThings | None = None
    weight: np.ndarray | None = None
    examination: np.ndarray | None = None
    rest: "SlateRest | None" = None


@dataclass(frozen=True)
class SlateRest:
    """Candidates of a slate that a training step leaves out: int64 (U,) items, and float32 (U, priors) log-odds."""

    item: np.ndarray
    prior: np.ndarray


@dataclass(frozen=True)
class RestBatch:
    """What list-wise losses read of the candidates that a training step leaves out, so that lists are of whole slates.

    Attributes:
        slate_candidates: int64 (S, U), which of them each slate has, −1 where it has fewer.
        prior: log-odds of the objectives' priors, float32 (number, priors).
        attributes: per item attribute its code, int64 (number,).
    """

    slate_candidates: torch.Tensor
    prior: torch.Tensor
    attributes: dict[str, torch.Tensor]

    def to(self, device: torch.device | str) -> "RestBatch":
        """The same on another device."""
        attributes = {name: codes.to(device) for name, codes in self.attributes.items()}
        return RestBatch(self.slate_candidates.to(device), self.prior.to(device), attributes)


@dataclass(frozen=True)
class RecallBatch:
    """What the recall objective reads of a batch.

    Attributes:
        texts: the model's inputs: B shoppers, then C items, each alone behind a bare prefix.
        target: int64 (B,), the item among the C that each shopper took.
        log_popularity: float32 (C,), log p_i, p_i the fraction of the item among all training positives.
        log_sampled: float32 (C,), log of the chance that the item is among the C.
        log_times: float32 (B, C), log(1 + how often the shopper has bought the item before).
        beside: float32 (B, C), what the scores hold beside vectors and these two.
        also: bool (B, C), which others the shopper took as well: they are not negatives.
        weight: float32 (B,), how much each shopper's item counts; None where all count alike.
    """

    texts: dict[str, torch.Tensor]
    target: torch.Tensor
    log_popularity: torch.Tensor
    log_sampled: torch.Tensor
    log_times: torch.Tensor
    beside: torch.Tensor
    also: torch.Tensor
    weight: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> "RecallBatch":
        """The same on another device."""
        held = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "texts"}
        moved: dict[str, Any] = {name: None if value is None else value.to(device) for name, value in held.items()}
        return RecallBatch(texts={name: x.to(device) for name, x in self.texts.items()}, **moved)


@dataclass(frozen=True, kw_only=True)
class ColumnBatch:
    """What heads read beside texts, and the labels, of whole slates.

    Attributes:
        slate_candidates: int64 (S, M), the candidate at each position of a slate, −1 where a slate is shorter.
        click, conversion: float32 (N,).
        labels: further labels by column, float32 (N,), NaN where there is none.
        features: standardised features, float32 (N, F), or None.
        prior: log-odds of the objectives' priors, float32 (N, priors), or None.
        compared: what candidates are compared with, as `join_things` gives it, or None.
        weight: how much each candidate counts, float32 (N,); None where all count alike.
        examination: how likely its place was looked at, float32 (N,); None where places are not read.
    """

    slate_candidates: torch.Tensor
    click: torch.Tensor
    conversion: torch.Tensor
    labels: dict[str, torch.Tensor] = field(default_factory=dict)
    features: torch.Tensor | None = None
    prior: torch.Tensor | None = None
    compared: dict[str, torch.Tensor] | None = None
    weight: torch.Tensor | None = None
    examination: torch.Tensor | None = None

    def inputs(self) -> dict[str, Any]:
        """What heads read, by argument name."""
        names = ("slate_candidates", "features", "prior", "compared")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def label(self, column: str) -> torch.Tensor:
        """A label of every candidate, float32 (N,), NaN where there is none."""
        return {"click": self.click, "conversion": self.conversion, **self.labels}[column]


@dataclass(frozen=True, kw_only=True)
class SlateBatch(ColumnBatch):
    """Tensors of a batch: those of its columns, and tokens, of which the model reads the first four.

    Attributes:
        input_ids, position_ids, segment_ids: int64 (R, T); segments: −1 padding, 0 prefix, 1, 2, … candidates.
        candidate_tokens: int64 (N, L), index into the flattened R·T tokens, −1 padding.
        log_sampling_rate: float32 (N,), log of the rate at which the slate's unclicked candidates were sampled.
        item: int64 (N,), item_index.
        slate: int64 (N,), which slate of the batch.
        row: int64 (S,), the slate's number in its split.
        attributes: per item attribute its code, int64 (N,).
        recall: shoppers and items of the recall objective, where the run has it.
        rest: the candidates that were left out, where list-wise losses read them.
        user_groups: per user attribute that losses read its code, int64 (S,).
        lengths: of rows and candidates, on the host.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    segment_ids: torch.Tensor
    candidate_tokens: torch.Tensor
    log_sampling_rate: torch.Tensor
    item: torch.Tensor
    slate: torch.Tensor
    row: torch.Tensor
    attributes: dict[str, torch.Tensor] = field(default_factory=dict)
    recall: RecallBatch | None = None
    rest: RestBatch | None = None
    user_groups: dict[str, torch.Tensor] = field(default_factory=dict)
    lengths: RowLengths | None = None

    def model_inputs(self) -> dict[str, Any]:
        """What the model reads, by argument name."""
        names = ("input_ids", "position_ids", "segment_ids", "candidate_tokens")
        inputs = {name: getattr(self, name) for name in names} | self.inputs()
        inputs |= {} if self.lengths is None else {"lengths": self.lengths}
        return inputs if self.recall is None else {**inputs, "texts": self.recall.texts}

    @property
    def tokens(self) -> int:
        """Tokens of all rows, padding left out; without `lengths` this waits for the device."""
        if self.lengths is None:
            return int((self.segment_ids >= 0).sum())
        return int(self.lengths.prefix.sum() + self.lengths.candidate.sum())

    def head_columns(self, candidates: Sequence[int]) -> dict[str, Any]:
        """What heads read of some candidates beside texts, each as a slate of its own, by argument name."""
        rows = list(candidates)
        columns: dict[str, Any] = {
            name: values[rows] for name in ("features", "prior") if (values := getattr(self, name)) is not None
        }
        if self.compared is not None:
            history, candidate = self.compared["history"][self.slate[rows]], self.compared["candidate"][rows]
            columns["compared"] = {**self.compared, "history": history, "candidate": candidate}
        return columns

    def to(self, device: torch.device | str) -> "SlateBatch":
        """The same batch on another device."""
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {
            name: {k: v.to(device) for k, v in held.pop(name).items()}
            for name in ("attributes", "labels", "compared", "user_groups")
            if held[name] is not None
        }
        moved |= {name: value.to(device) for name, value in held.items() if value is not None}
        return replace(self, **moved)


@dataclass(frozen=True)
class _Layout:
    """Where every piece (a prefix or a candidate) of a batch is: lists with one entry per piece, in row order."""

    ids: list[Sequence[int] | np.ndarray] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    column: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    segment: list[int] = field(default_factory=list)

    def add(self, ids: Sequence[int] | np.ndarray, row: int, column: int, position: int, segment: int) -> None:
        self.ids.append(ids)
        self.row.append(row)
        self.column.append(column)
        self.position.append(position)
        self.segment.append(segment)


def _lay_rows(slates: Sequence[Slate], max_row: int) -> _Layout:
    """Fill rows slate after slate; a slate that is longer than a row repeats its prefix in the next one."""
    layout = _Layout()
    row = -1
    for slate in slates:
        length = len(slate.prefix)
        segment, filled = 0, 0
        for ids in slate.candidates:
            if segment == 0 or filled + len(ids) > max_row:
                row, segment, filled = row + 1, 0, length
                layout.add(slate.prefix, row, 0, 0, 0)
            segment += 1
            layout.add(ids, row, filled, length, segment)
            filled += len(ids)
    return layout


def _lined_up(starts: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
    """A line per run of integers: int64 (N, longest), start, start + 1, …, then −1."""
    steps = np.arange(int(lengths.max()))
    return torch.from_numpy(np.where(steps < lengths[:, None], starts[:, None] + steps, -1))


def _filled(shape: tuple[int, int], fill: int, flat_positions: np.ndarray, values: np.ndarray) -> torch.Tensor:
    out = np.full(shape, fill, dtype=np.int64)
    out.reshape(-1)[flat_positions] = values
    return torch.from_numpy(out)


def _all_or_none(slates: Sequence[Slate], name: str) -> list[Any]:
    """An attribute of all slates; empty where none has it."""
    given = [value for slate in slates if (value := getattr(slate, name)) is not None]
    if given and len(given) < len(slates):
        raise ValueError(f"some slates of a batch have {name} and some have none")
    return given


def _columns(slates: Sequence[Slate], name: str) -> torch.Tensor | None:
    values = _all_or_none(slates, name)
    return torch.from_numpy(np.concatenate(values).astype(np.float32)) if values else None


def build_columns(slates: Sequence[Slate]) -> ColumnBatch:
    """All of a batch but tokens.

    Args:
        slates: at least one, each with at least one candidate.
    """
    counts = np.array([len(slate.item) for slate in slates], dtype=np.int64)
    things = _all_or_none(slates, "things")
    return ColumnBatch(
        slate_candidates=_lined_up(np.cumsum(counts) - counts, counts),
        click=torch.from_numpy(np.concatenate([slate.click for slate in slates]).astype(np.float32)),
        conversion=torch.from_numpy(np.concatenate([slate.conversion for slate in slates]).astype(np.float32)),
        labels={
            name: torch.from_numpy(np.concatenate([slate.labels[name] for slate in slates]).astype(np.float32))
            for name in slates[0].labels
        },
        features=_columns(slates, "features"),
        prior=_columns(slates, "prior"),
        compared=join_things(things) if things else None,
        weight=_columns(slates, "weight"),
        examination=_columns(slates, "examination"),
    )


def _rest(slates: Sequence[Slate], attributes: dict[str, np.ndarray]) -> RestBatch | None:
    parts = _all_or_none(slates, "rest")
    if not parts:
        return None
    counts, item = np.array([len(part.item) for part in parts]), np.concatenate([part.item for part in parts])
    prior = torch.from_numpy(np.concatenate([part.prior for part in parts]).astype(np.float32))
    codes = {name: torch.from_numpy(values[item]) for name, values in attributes.items()}
    return RestBatch(_lined_up(np.cumsum(counts) - counts, counts), prior, codes)


def build_batch(
    slates: Sequence[Slate], max_row: int, pad_id: int, attributes: dict[str, np.ndarray] | None = None
) -> SlateBatch:
    """Pack slates into one batch.

    Args:
        slates: at least one, each with at least one candidate.
        max_row: largest number of tokens of a row; a slate that needs more takes further rows.
        pad_id: the id that fills short rows.
        attributes: per item attribute the codes of all items (int64, by item_index).
    """
    layout = _lay_rows(slates, max_row)
    lengths = np.array([len(ids) for ids in layout.ids], dtype=np.int64)
    row, column = np.array(layout.row, dtype=np.int64), np.array(layout.column, dtype=np.int64)
    position, segment = np.array(layout.position, dtype=np.int64), np.array(layout.segment, dtype=np.int64)
    shape = (int(row[-1]) + 1, int((column + lengths).max()))
    starts = row * shape[1] + column
    within = run_indices(np.zeros_like(lengths), lengths)
    flat_positions = np.repeat(starts, lengths) + within
    is_candidate = segment > 0
    counts = np.array([len(slate.candidates) for slate in slates], dtype=np.int64)
    item = np.concatenate([slate.item for slate in slates]).astype(np.int64)
    per_slate = np.array([slate.log_sampling_rate for slate in slates], dtype=np.float32)
    return SlateBatch(
        input_ids=_filled(
            shape, pad_id, flat_positions, np.concatenate([np.asarray(ids, np.int64) for ids in layout.ids])
        ),
        position_ids=_filled(shape, 0, flat_positions, np.repeat(position, lengths) + within),
        segment_ids=_filled(shape, -1, flat_positions, np.repeat(segment, lengths)),
        candidate_tokens=_lined_up(starts[is_candidate], lengths[is_candidate]),
        log_sampling_rate=torch.from_numpy(np.repeat(per_slate, counts)),
        item=torch.from_numpy(item),
        slate=torch.from_numpy(np.repeat(np.arange(len(slates)), counts)),
        row=torch.tensor([slate.row for slate in slates]),
        attributes={name: torch.from_numpy(codes[item]) for name, codes in (attributes or {}).items()},
        rest=_rest(slates, attributes or {}),
        lengths=RowLengths(lengths[~is_candidate], row[is_candidate], lengths[is_candidate]),
        **vars(build_columns(slates)),
    )

"""Before the first step, the heads of binary objectives learn what needs no backbone: prior, numbers and comparison.

Frozen vectors are looked up, so that whole passes over the training slates take seconds where a pass of the backbone
takes hours. After every pass each head is judged on the valid split; it goes on from its best state where that is
surely better there than the one it began with, its prior. The result depends on the seed alone, not on the number of
processes: each does the same.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn

from equipoise.configs.objective_spec import ObjectiveSpec
from equipoise.configs.objectives import chain
from equipoise.configs.schema import RunConfig
from equipoise.data.batches import ColumnBatch, build_columns
from equipoise.data.slate_set import SlateSet
from equipoise.data.thing_columns import principal_axes
from equipoise.modeling.heads import PointHead
from equipoise.modeling.model import SlateModel
from equipoise.train.assemble import DataParts, open_split
from equipoise.train.batch_default import slates_of_batch
from equipoise.train.objectives.pointwise import CLICK, as_shown, chain_loss
from equipoise.train.validation import spread_rows

SLATES = 64
"""Of a batch, at most; smaller train splits have smaller ones (train/batch_default.py)."""
PROJECTION_RATE, RATE, DECAY = 3e-4, 1e-3, 1e-3
"""Learning rates of the projections and of the rest, and AdamW's weight decay; those of the prototype's figures."""
MOST_VALID = 100_000
"""Impressions of the valid split that judge, about: whole slates, spread over it."""
SURE = 1.96
"""Standard errors of the gain on the valid split, over its slates, from which a head is surely better than at first."""


@dataclass(frozen=True)
class HeadPasses:
    """How a head learned alone.

    Attributes:
        losses: on the valid split, in nats per impression: at first, then after every pass.
        gain: of the best pass over the first state, and its standard error; nan where it cannot be told.
        error: see `gain`.
    """

    losses: list[float]
    gain: float
    error: float

    @property
    def chosen(self) -> int:
        """The pass after which it goes on, 0 where none was surely better than the state that it began with."""
        return int(np.argmin(self.losses)) if self.gain > SURE * self.error else 0

    def told(self) -> str:
        """Both losses, and which state it goes on from."""
        first, best = self.losses[0], int(np.argmin(self.losses))
        if not best:
            return f"log loss on valid {first:.4f} as its prior, not below that after any pass of its head alone"
        after = f"{min(self.losses):.4f} after {best} of {len(self.losses) - 1} passes of its head alone"
        sure = "" if self.chosen else ", which may be chance: it begins as its prior"
        return f"log loss on valid {first:.4f} as its prior, {after}{sure}"


@dataclass(frozen=True)
class _Judged:
    """Log losses of each head, summed over the candidates of each slate, (S,), and what they weigh, (S,)."""

    losses: dict[str, np.ndarray]
    weight: np.ndarray

    def mean(self, name: str) -> float:
        return float(self.losses[name].sum() / self.weight.sum())

    def means(self) -> dict[str, float]:
        return {name: self.mean(name) for name in self.losses}

    def gain_to(self, other: "_Judged", name: str) -> tuple[float, float]:
        """By how much a later state's mean loss is lower, and the standard error of that over slates."""
        gain, slates, total = self.mean(name) - other.mean(name), len(self.weight), self.weight.sum()
        rest = self.losses[name] - other.losses[name] - gain * self.weight
        return gain, float(np.sqrt(slates / (slates - 1) * (rest**2).sum()) / total) if slates > 1 else np.nan


def start_heads(
    model: SlateModel,
    config: RunConfig,
    data: DataParts,
    progress: Callable[[float], None] = lambda fraction: None,
    judged: Callable[[int, Mapping[str, float]], None] = lambda epoch, losses: None,
) -> dict[str, HeadPasses]:
    """Let comparisons begin as frozen vectors have them, and heads learn alone: how a training begins.

    Args:
        model: on the CPU, newly built.
        config: of the run: its objectives, seed and `train.head_epochs`.
        data: the train split.
        progress: is told the fraction that is done, 0 to 1.
        judged: is told after each pass, and before the first one as pass 0, the log losses on the valid split.

    Returns:
        as `fit_heads`.
    """
    if data.beside.vectors is not None:
        start_comparisons(model, data.beside.vectors.vectors)
    specs, valid = config.objectives.specs(), open_split(data, "valid").slates
    return fit_heads(model, specs, data.slates, valid, config.train.head_epochs, config.seed, progress, judged)


def fit_heads(
    model: SlateModel,
    specs: Mapping[str, ObjectiveSpec],
    train: SlateSet,
    valid: SlateSet,
    epochs: int,
    seed: int,
    progress: Callable[[float], None] = lambda fraction: None,
    judged: Callable[[int, Mapping[str, float]], None] = lambda epoch, losses: None,
) -> dict[str, HeadPasses]:
    """Let the heads learn without the towers; the best state of each stays in the model, where it is surely better.

    Args:
        model: on the CPU, newly built.
        specs: of the objectives.
        train, valid: slates with their priors and things.
        epochs: passes over the training slates.
        seed: of the order of slates.
        progress: is told the fraction that is done, 0 to 1.
        judged: is told after each pass, and before the first one as pass 0, the log losses on the valid split.

    Returns:
        of each objective what its passes gave.
    """
    heads = {name: cast(PointHead, model.heads[name]) for name in _learning(model, specs)}
    if not heads or not epochs:
        return {}
    rows = np.array(spread_rows(len(valid), max(1, len(valid) * MOST_VALID // max(int(valid.tokens.first[-1]), 1))))
    rows = rows[np.argsort(np.diff(valid.tokens.first)[rows], kind="stable")]
    first = _judge(heads, specs, model, valid, rows)
    judged(0, first.means())
    seen = [first]
    states = [_states(heads)]
    optimizer = torch.optim.AdamW(_groups(heads), weight_decay=DECAY)
    size = slates_of_batch(len(train), SLATES)
    batches = -(-len(train) // size)
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch, SLATES]).permutation(len(train))
        for number, batch in enumerate(column_batches(train, order, size)):
            loss = sum(_losses(heads, specs, model, batch).values())
            optimizer.zero_grad()
            cast(torch.Tensor, loss).backward()
            optimizer.step()
            progress((epoch + (number + 1) / batches) / epochs)
        now = _judge(heads, specs, model, valid, rows)
        judged(epoch + 1, now.means())
        seen.append(now)
        states.append(_states(heads))
    found = {}
    for name, head in heads.items():
        losses = [each.mean(name) for each in seen]
        found[name] = HeadPasses(losses, *first.gain_to(seen[int(np.argmin(losses))], name))
        head.load_state_dict(states[found[name].chosen][name])
        head.zero_grad(set_to_none=True)
    return found


def _states(heads: Mapping[str, PointHead]) -> dict[str, dict[str, torch.Tensor]]:
    return {name: copy.deepcopy(head.state_dict()) for name, head in heads.items()}


def start_comparisons(model: SlateModel, vectors: np.ndarray) -> None:
    """Let all comparisons begin as the principal axes of the vectors of things, float (T, D)."""
    for head in model.heads.values():
        if isinstance(head, PointHead) and head.comparison is not None:
            width = head.comparison.of_candidate.out_features
            head.comparison.start(torch.from_numpy(principal_axes(vectors, width)))


def learned_parts(model: SlateModel, specs: Mapping[str, ObjectiveSpec]) -> list[str]:
    """What names of the parameters begin with that `fit_heads` fits."""
    return [f"heads.{name}.{part}" for name in _learning(model, specs) for part in ("comparison.", "moved")]


def _learning(model: SlateModel, specs: Mapping[str, ObjectiveSpec]) -> list[str]:
    """Binary objectives whose head, and those of the chain before it, have a prior or compare."""
    binary = [name for name in model.pointwise if specs[name].form == "binary"]
    own = [name for name in binary if name in model.priors or model.compares]
    return [name for name in own if set(chain(specs, name)) <= set(own)]


def _groups(heads: Mapping[str, PointHead]) -> list[dict]:
    """AdamW's groups: projections, and what reads them; the tower's own map and the features' response wait."""
    projections: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for head in heads.values():
        others += [head.moved] if head.moved is not None else []
        for name, parameter in head.comparison.named_parameters() if head.comparison is not None else ():
            (projections if name.startswith("of_") else others).append(parameter)
    return [{"params": projections, "lr": PROJECTION_RATE}, {"params": others, "lr": RATE}]


def column_batches(slates: SlateSet, rows: Sequence[int] | np.ndarray, size: int = SLATES) -> Iterator[ColumnBatch]:
    """Some slates with all their candidates and without texts, `size` at a time."""
    for begin in range(0, len(rows), size):
        yield build_columns([slates.columns(int(row)) for row in rows[begin : begin + size]])


def logits_alone(model: SlateModel, names: Sequence[str], batch: ColumnBatch) -> dict[str, torch.Tensor]:
    """Logits of pointwise heads without the tower's vector, float32 (N,) by name."""
    inputs, count = batch.inputs(), batch.click.shape[0]
    return {
        name: cast(PointHead, model.heads[name]).beside_text(model.head_inputs(name, inputs, count))
        + model.offsets[name]
        for name in names
    }


def _losses(
    heads: Mapping[str, PointHead], specs: Mapping[str, ObjectiveSpec], model: SlateModel, batch: ColumnBatch
) -> dict[str, torch.Tensor]:
    """Mean log loss of each head's chain over the candidates of a batch, each counting by its weight.

    Earlier logits of a chain are read without gradient.
    """
    each = _candidate_losses(heads, specs, model, batch)
    if batch.weight is None:
        return {name: loss_N.mean() for name, loss_N in each.items()}
    return {name: (batch.weight * loss_N).sum() / batch.weight.sum() for name, loss_N in each.items()}


def _candidate_losses(
    heads: Mapping[str, PointHead], specs: Mapping[str, ObjectiveSpec], model: SlateModel, batch: ColumnBatch
) -> dict[str, torch.Tensor]:
    """Log loss of each head's chain on every candidate, (N,)."""
    logits = logits_alone(model, list(heads), batch)
    losses = {}
    for name in heads:
        names = [*chain(specs, name), name]
        label_N = torch.stack([batch.label(str(specs[each].label)) for each in names]).nan_to_num().prod(0)
        chained = [logits[each].detach() for each in names[:-1]] + [logits[name]]
        if specs[names[0]].label == CLICK:
            chained[0] = as_shown(chained[0], batch.examination)
        losses[name] = chain_loss(chained, label_N)
    return losses


@torch.no_grad()
def _judge(
    heads: Mapping[str, PointHead],
    specs: Mapping[str, ObjectiveSpec],
    model: SlateModel,
    slates: SlateSet,
    rows: np.ndarray,
) -> _Judged:
    """The log losses on some slates."""
    sums: dict[str, list[np.ndarray]] = {name: [] for name in heads}
    weights = []
    for batch in column_batches(slates, rows):
        sizes = (batch.slate_candidates >= 0).sum(1)
        slate_N = torch.repeat_interleave(sizes).numpy()
        weight_N = np.ones(len(slate_N)) if batch.weight is None else batch.weight.double().numpy()
        weights.append(np.bincount(slate_N, weight_N, len(sizes)))
        for name, loss_N in _candidate_losses(heads, specs, model, batch).items():
            sums[name].append(np.bincount(slate_N, weight_N * loss_N.double().numpy(), len(sizes)))
    return _Judged({name: np.concatenate(each) for name, each in sums.items()}, np.concatenate(weights))

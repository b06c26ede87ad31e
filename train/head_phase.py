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
from equipoise.train.objectives.pointwise import CLICK, as_shown, chain_loss, log1m_product, log_product
from equipoise.train.sureness import best_level
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
        gain: of the best pass over the first state, each at the level that suits the valid split best: how much is
            clicked differs from day to day, and what only moves the level to that of these days is no gain.
        error: standard error of the gain, nan where it cannot be told.
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
        sure = "" if self.chosen else ", which is its level or chance: it begins as its prior"
        return f"log loss on valid {first:.4f} as its prior, {after}{sure}"


@dataclass(frozen=True)
class Judged:
    """What heads say of the candidates of the valid split.

    Attributes:
        said: log-odds and label by head, (N,) each.
        weight: how much each candidate counts, (N,).
        slate: number of its slate, int64 (N,).
    """

    said: Mapping[str, tuple[np.ndarray, np.ndarray]]
    weight: np.ndarray
    slate: np.ndarray

    def losses(self, name: str, at_best_level: bool = False) -> np.ndarray:
        """Weighted log losses, (N,); at the level (a constant that all log-odds get) of the lowest one, if asked."""
        odds, label = self.said[name]
        if at_best_level:
            odds = odds + best_level(odds, label, self.weight)
        return self.weight * (np.logaddexp(0.0, odds) - label * odds)

    def means(self) -> dict[str, float]:
        """Log losses in nats per impression."""
        return {name: float(self.losses(name).sum() / self.weight.sum()) for name in self.said}

    def gain_to(self, other: "Judged", name: str) -> tuple[float, float]:
        """By how much a later state's mean loss is lower, both at their best level, and the standard error of that
        over slates (nan where there is one slate alone)."""
        difference = self.losses(name, True) - other.losses(name, True)
        total, size = self.weight.sum(), np.bincount(self.slate, self.weight)
        gain = float(difference.sum() / total)
        rest, slates = np.bincount(self.slate, difference) - gain * size, len(size)
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
    seen, means, states = [first], [first.means()], [_states(heads)]
    judged(0, means[0])
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
        seen.append(now)
        means.append(now.means())
        states.append(_states(heads))
        judged(epoch + 1, means[-1])
    found = {}
    for name, head in heads.items():
        losses = [each[name] for each in means]
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
    losses = {}
    for name, (logits, label_N) in _chains(heads, specs, model, batch).items():
        loss_N = chain_loss(logits, label_N)
        losses[name] = loss_N.mean() if batch.weight is None else (batch.weight * loss_N).sum() / batch.weight.sum()
    return losses


def _chains(
    heads: Mapping[str, PointHead], specs: Mapping[str, ObjectiveSpec], model: SlateModel, batch: ColumnBatch
) -> dict[str, tuple[list[torch.Tensor], torch.Tensor]]:
    """Each head's logits along its chain, and the label of their product, (N,) each."""
    logits = logits_alone(model, list(heads), batch)
    found = {}
    for name in heads:
        names = [*chain(specs, name), name]
        label_N = torch.stack([batch.label(str(specs[each].label)) for each in names]).nan_to_num().prod(0)
        chained = [logits[each].detach() for each in names[:-1]] + [logits[name]]
        if specs[names[0]].label == CLICK:
            chained[0] = as_shown(chained[0], batch.examination)
        found[name] = chained, label_N
    return found


@torch.no_grad()
def _judge(
    heads: Mapping[str, PointHead],
    specs: Mapping[str, ObjectiveSpec],
    model: SlateModel,
    slates: SlateSet,
    rows: np.ndarray,
) -> Judged:
    """What heads say of some slates."""
    sizes, weights = [], []
    said: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in heads}
    for batch in column_batches(slates, rows):
        sizes.append((batch.slate_candidates >= 0).sum(1).numpy())
        weights.append(np.ones(len(batch.click)) if batch.weight is None else batch.weight.double().numpy())
        for name, (logits, label_N) in _chains(heads, specs, model, batch).items():
            odds_N = log_product(*logits) - log1m_product(*logits)
            said[name].append((odds_N.double().numpy(), label_N.double().numpy()))
    each = {name: tuple(np.concatenate(part) for part in zip(*parts, strict=True)) for name, parts in said.items()}
    slate = np.repeat(np.arange(len(rows)), np.concatenate(sizes))
    return Judged(each, np.concatenate(weights), slate)  # type: ignore[arg-type]

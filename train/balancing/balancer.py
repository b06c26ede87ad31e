"""The weights of a backward at the boundary: measure the Gram matrix, weigh it on rank 0, broadcast.

On the wire per backward at level `boundary`: K² numbers summed, K numbers broadcast.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from equipoise.common.errors import DivergedError, UserError
from equipoise.configs.balancing import BalancingConfig
from equipoise.modeling.boundary import BoundaryGradients, StepContext
from equipoise.train.averages import Averages
from equipoise.train.balancing.conflict_map import ConflictMap
from equipoise.train.balancing.conflict_test import ConflictTest
from equipoise.train.balancing.diagnostics import (
    cosines_of,
    remember_cosines,
    remember_decision,
    remember_step,
    remember_sure,
)
from equipoise.train.balancing.gradient_stats import (
    Conditioned,
    GradientStats,
    StatelessWeighting,
    Weighting,
    condition,
)
from equipoise.train.balancing.gram import GramReader, MovingGram, TrunkLayers, nearest_gram
from equipoise.train.balancing.loss_weightings import weighted
from equipoise.train.balancing.registry import build_method
from equipoise.train.world import World

PLAIN = StatelessWeighting(weighted)
"""The sum by preference, where nothing conflicts."""


def weights_on_gradients(
    method: Weighting,
    conditioned: Conditioned,
    names: Sequence[str],
    preference: np.ndarray,
    losses: np.ndarray,
    step: int,
    lower_bounds: np.ndarray | None = None,
) -> np.ndarray:
    """The method's weights on the raw gradients, float64 (K,); 0 for those left out.

    A gradient below the noise floor gets no larger share of the step than its length over that floor, whatever the
    method: one that is free of scale would give it as much as the others.

    `losses` are raw, `lower_bounds` their lower bounds (default 0).
    """
    lower_bounds = np.zeros(len(names)) if lower_bounds is None else lower_bounds
    weights = np.zeros(len(names))
    active = conditioned.active
    if len(active):
        stats = GradientStats(
            names=tuple(names[k] for k in active),
            cosines=conditioned.cosines,
            norms=conditioned.norms,
            preference=preference[active],
            losses=losses[active] - lower_bounds[active],
            step=step,
            lower_bounds=lower_bounds[active],
        )
        found = method.compute_weights(stats) * conditioned.scales
        weights[active] = _floored(found, conditioned, preference[active])
    return weights


def _floored(weights: np.ndarray, conditioned: Conditioned, preference: np.ndarray) -> np.ndarray:
    """Weights on the raw gradients (A,), those of gradients below the noise floor cut to what their length justifies.

    Their share of the step is at most their length over the floor of the largest share above it; a weight that
    lengthens nothing stays.
    """
    lengths = conditioned.norms / conditioned.scales
    above = conditioned.floors == 1.0
    most = np.abs(weights * lengths).max(where=above, initial=0.0)
    cap = np.maximum(most * conditioned.floors / lengths, preference)
    return np.where(above, weights, np.clip(weights, -cap, cap))


def blank(gram: np.ndarray, rows: np.ndarray) -> None:
    """Make the rows and columns of some objectives NaN, in place: nothing is known of their gradients."""
    gram[rows] = np.nan
    gram[:, rows] = np.nan


class Balancer:
    """Weighs the objectives' gradients in every backward and remembers what it saw, for the log and the checkpoint.

    Args:
        names: the objectives, in the order of the towers.
        preference: one positive weight each.
        config: method, level, normalisation, smoothing.
        world: the processes of the job.
        scale: by how much this process's gradients exceed those of the mean loss (processes / accumulation steps).
        trunk: the shared parameters of each trunk layer, read by the levels `layers` and `parameters` and by probes.
        lower_bounds: lower bound of each loss, known beforehand (default 0).
        max_nonfinite: backwards in a row with a non-finite gradient after which the run stops.
        groups: column → values of the groups by which conflicts are told apart.

    Attributes:
        map: of conflicts by group.
        solves: backwards whose weights were computed afresh.
    """

    def __init__(
        self,
        names: Sequence[str],
        preference: Sequence[float],
        config: BalancingConfig,
        world: World,
        scale: float,
        trunk: TrunkLayers = (),
        lower_bounds: Sequence[float] | None = None,
        max_nonfinite: int = 20,
        groups: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        if config.unbiased and world.size < 2:
            raise UserError("balancing.unbiased needs at least 2 processes: launch with more, or set it to false")
        self.names = tuple(names)
        self.preference = np.asarray(preference, dtype=np.float64)
        self.lower_bounds = (
            np.zeros(len(self.names)) if lower_bounds is None else np.asarray(lower_bounds, dtype=np.float64)
        )
        self.config, self.world = config, world
        self.method = build_method(config)
        self.measure = GramReader(config, trunk, world, scale)
        self.moving = MovingGram(len(self.names), config.gram_ema) if config.gram_ema else None
        self.test = ConflictTest(len(self.names), config.significance) if config.significance is not None else None
        self.map = ConflictMap(self.names, groups or {}, world)
        self.max_nonfinite = max_nonfinite
        self.solves = 0
        self.averages = Averages()
        self._weights: np.ndarray | None = None
        self._bad_in_a_row = np.zeros(len(self.names), dtype=int)
        self._failure: Exception | None = None  # why rank 0 found no weights

    def compute_weights(self, gradients: BoundaryGradients, context: StepContext) -> list[float]:
        """From this process's gradients to the weights, bit-equal on all processes: a boundary.ComputeWeights.

        `context` has the step's number and its global losses (1 where none were reported); it is given the objectives
        whose gradient is not finite.

        Raises:
            UserError: an objective's gradient has not been finite for too many backwards in a row, or the method
                found no weights.
        """
        losses = np.ones(len(self.names)) if context.losses is None else context.losses
        if self._weights is not None and context.step % self.config.balance_every:
            return self._reuse(gradients, losses, context)
        gram = self.measure.gram(gradients)
        blank(gram, ~np.isfinite(losses))  # it is blocked: the zeros that arrived are not its gradient
        self._count_nonfinite(~np.isfinite(np.diag(gram)), context)
        weights = torch.zeros(len(self.names), dtype=torch.float64, device=gradients.values[0].device)
        if self.world.rank == 0:
            weights.copy_(torch.from_numpy(self._decide(gram, losses, context.step)))
        self._weights = self.world.broadcast(weights).cpu().numpy()
        if not np.isfinite(self._weights).all():
            reason = f" ({self._failure})" if self._failure is not None else ""
            raise UserError(
                f"balancing.method={self.config.method} found no weights at step {context.step}{reason} for the "
                f"Gram matrix {gram.tolist()}: choose another method and start anew with --overwrite"
            ) from self._failure
        self._probe(gradients, context.step)
        self.map.add(gradients, context)
        remember_cosines(self.averages, self.names, gram, "balance")
        remember_step(self.averages, self.names, gram, self._weights)
        self.solves += 1
        return self._weights.tolist()

    def _decide(self, gram: np.ndarray, losses: np.ndarray, step: int) -> np.ndarray:
        smooth = gram
        if self.moving is not None:
            smooth = self.moving.update(gram)
            # Entries that skipped a bad step have other factors than the rest: the average may be no Gram matrix.
            smooth = nearest_gram(smooth, np.sqrt(np.maximum(np.diag(smooth), 0.0)))
            blank(smooth, ~np.isfinite(np.diag(gram)))
        conditioned = condition(smooth, str(self.config.normalize), losses)
        method: Weighting = self.method
        if self.test is not None:
            conditioned, method = self._tested(self.test, gram, conditioned)
        try:
            weights = weights_on_gradients(
                method, conditioned, self.names, self.preference, losses, step, self.lower_bounds
            )
        except Exception as error:  # whatever it is: the other processes are waiting for the broadcast
            self._failure = error
            weights = np.full(len(self.names), np.nan)
        remember_decision(self.averages, self.names, conditioned, self.preference, weights)
        return weights

    def _tested(self, test: ConflictTest, gram: np.ndarray, found: Conditioned) -> tuple[Conditioned, Weighting]:
        """The gradients without conflicts that may be noise, and the method, or the plain sum where none is left.

        A gradient far below its usual length is not made as long as the others: it would be noise.
        """
        test.update(cosines_of(gram), np.sqrt(np.diag(gram)))
        sure = test.conflicts()
        remember_sure(self.averages, self.names, sure)
        active = np.ix_(found.active, found.active)
        cosines = np.where(sure[active], found.cosines, np.maximum(found.cosines, 0.0))
        factors = np.ones(len(found.active))
        if self.config.normalize == "l2":
            factors = np.minimum(1.0, test.longest_scales()[found.active] / found.scales)
        cosines = nearest_gram(cosines, np.ones(len(cosines)))
        lengths = np.sqrt(np.maximum(np.diag(cosines), 1e-12))
        cosines = cosines / np.outer(lengths, lengths)
        np.fill_diagonal(cosines, 1.0)
        tested = replace(found, cosines=cosines, scales=found.scales * factors, norms=found.norms * factors)
        return tested, self.method if sure[active].any() else PLAIN

    def _reuse(self, gradients: BoundaryGradients, losses: np.ndarray, context: StepContext) -> list[float]:
        """The last weights, without whatever is not finite this time: K numbers on the wire."""
        assert self._weights is not None
        finite = self.measure.finite(gradients) & np.isfinite(losses)
        self._count_nonfinite(~finite, context)
        weights = np.where(finite, self._weights, 0.0)
        for name, weight, good in zip(self.names, weights, finite, strict=True):
            self.averages.add(f"balance/weight/{name}", float(weight))
            self.averages.add(f"balance/nonfinite/{name}", float(not good))
        return weights.tolist()

    def _count_nonfinite(self, bad: np.ndarray, context: StepContext) -> None:
        context.nonfinite.update(name for name, is_bad in zip(self.names, bad, strict=True) if is_bad)
        self._bad_in_a_row = np.where(bad, self._bad_in_a_row + 1, 0)
        worst = int(np.argmax(self._bad_in_a_row))
        if self._bad_in_a_row[worst] >= self.max_nonfinite:
            raise DivergedError(
                f"the gradient of objective '{self.names[worst]}' was not finite in {self._bad_in_a_row[worst]} "
                f"backwards in a row (step {context.step}): lower train.lr or check its labels, then resume from the "
                "last checkpoint"
            )

    def _probe(self, gradients: BoundaryGradients, step: int) -> None:
        every = self.config.probe_every
        if every is not None and step % every == 0:
            for layer, gram in enumerate(self.measure.by_layer(gradients)):
                remember_cosines(self.averages, self.names, gram, f"balance/layer-{layer}")

    def after_step(self, losses: np.ndarray, losses_after: np.ndarray) -> None:
        """Hand the method the losses of one batch before and after the step, as far as both are finite."""
        finite = np.isfinite(losses) & np.isfinite(losses_after)
        before, after = losses - self.lower_bounds, losses_after - self.lower_bounds
        rows = [k for k in range(len(self.names)) if finite[k]]
        self.method.after_step({self.names[k]: before[k] for k in rows}, {self.names[k]: after[k] for k in rows})

    def state(self) -> dict[str, Any]:
        """For the checkpoint, as JSON; that of rank 0 counts, and all processes call it."""
        return {
            "name": self.config.method,
            "method": self.method.state(),
            "moving": self.moving.state() if self.moving is not None else None,
            "test": self.test.state() if self.test is not None else None,
            "map": self.map.state(),
            "weights": self._weights.tolist() if self._weights is not None else None,
            "bad_in_a_row": self._bad_in_a_row.tolist(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            UserError: it was written with another method.
        """
        if state["name"] != self.config.method:
            raise UserError(
                f"the checkpoint was written with balancing.method={state['name']}, this run has {self.config.method}: "
                "resume with the same method, or start anew with --overwrite"
            )
        self.method.restore(state["method"])
        if self.moving is not None and state["moving"] is not None:
            self.moving.restore(state["moving"])
        if self.test is not None and state.get("test") is not None:
            self.test.restore(state["test"])
        self.map.restore(state.get("map", {}))
        self._weights = np.array(state["weights"]) if state["weights"] is not None else None
        self._bad_in_a_row = np.array(state["bad_in_a_row"])

    def drain(self) -> dict[str, float]:
        """Means of what was seen since the last call, by metric name."""
        return self.averages.drain()

"""Which candidates a campaign shows to which shoppers: the best slates under caps that hold over all of them.

    maximise Σ gain·x   subject to   Σ_shopper x ≤ top,   least_g ≤ Σ_group x ≤ most_g,   x ∈ {0, 1}

With the groups of one attribute this is a transportation problem: its matrix is totally unimodular (Schrijver,
Combinatorial Optimization, 2003, ch. 13), so the linear relaxation has whole solutions and HiGHS's simplex method finds
one. Several attributes may leave fractions; then HiGHS's branch and bound goes on, and its bound says how far from the
best the slates can be.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp
from scipy.sparse import csr_array, vstack

from equipoise.common.errors import UserError

WHOLE = 1e-6
RELATIVE_GAP = 1e-4
SECONDS = 120.0
INFEASIBLE = 2


@dataclass(frozen=True)
class Cap:
    """How many exposures a group of candidates gets, over all shoppers.

    Attributes:
        name: of the group, for messages.
        members: rows of its candidates, int64.
        most: exposures at most, None for any number.
        least: exposures at least.
    """

    name: str
    members: np.ndarray
    most: int | None = None
    least: int = 0


@dataclass(frozen=True)
class Allocation:
    """The slates of a campaign.

    Attributes:
        chosen: which rows are shown, bool (N,).
        value: Σ gain of the shown.
        bound: no slates under these caps have more.
        way: `linear` where the relaxation was whole, else `branch and bound`.
    """

    chosen: np.ndarray
    value: float
    bound: float
    way: str

    @property
    def gap(self) -> float:
        """How much of the bound is missing at most, as a fraction of it."""
        return max(0.0, 1 - self.value / self.bound) if self.bound > 0 else 0.0


def allocate(
    shopper: np.ndarray, gain: np.ndarray, top: int, caps: Sequence[Cap], seconds: float = SECONDS
) -> Allocation:
    """The slates with the largest total gain; no cap is ever exceeded and every minimum is kept.

    Args:
        shopper: number of the shopper of each row, from 0, int64 (N,).
        gain: what showing a row is worth, not negative, float64 (N,).
        top: candidates per shopper at most.
        caps: of groups, which may overlap.
        seconds: after which the search for whole slates ends with the best it has.

    Raises:
        UserError: the minimums cannot be kept, or no slates that keep them were found in time.
        ValueError: a gain is negative or not finite.
    """
    if not (np.isfinite(gain).all() and (gain >= 0).all()):
        raise ValueError("gains must be finite and not negative")
    _check_minimums(caps)
    rows = _worth_asking(shopper, gain, top, caps)
    scale = float(gain[rows].max(initial=0.0)) or 1.0
    constraints = _constraints(shopper, top, caps, rows)
    solution = _solve(gain[rows] / scale, constraints, integer=False, seconds=seconds)
    method, bound = "linear", -solution.fun * scale
    if (np.abs(solution.x - solution.x.round()) > WHOLE).any():
        solution = _solve(gain[rows] / scale, constraints, integer=True, seconds=seconds)
        method, bound = "branch and bound", min(bound, -solution.mip_dual_bound * scale)
    chosen = np.zeros(len(gain), dtype=bool)
    chosen[rows[solution.x > 0.5]] = True
    chosen = fill(shopper, gain, top, caps, chosen)  # gains below the solver's tolerance
    if violations(chosen, shopper, top, caps):
        raise RuntimeError("the solver's slates break a cap")
    value = float(gain[chosen].sum())
    return Allocation(chosen, value, max(bound, value), method)


def fill(
    shopper: np.ndarray, score: np.ndarray, top: int, caps: Sequence[Cap], chosen: np.ndarray | None = None
) -> np.ndarray:
    """Greedily show what still fits, highest score first, equal ones in their order; bool (N,).

    Args:
        shopper, top, caps: as for `allocate`; minimums are not looked at.
        score: of each row, float64 (N,).
        chosen: what is shown already; None for nothing.
    """
    shown = np.zeros(len(score), dtype=bool) if chosen is None else chosen.copy()
    room = top - np.bincount(shopper[shown], minlength=int(shopper.max(initial=-1)) + 1)
    groups: list[list[int]] = [[] for _ in range(len(score))]
    left: list[int] = []
    for cap in caps:
        if cap.most is None:
            continue
        for row in cap.members.tolist():
            groups[row].append(len(left))
        left.append(cap.most - int(shown[cap.members].sum()))
    order = np.argsort(-score, kind="stable")
    for row in order[~shown[order] & (room[shopper[order]] > 0)].tolist():
        if room[shopper[row]] > 0 and all(left[group] > 0 for group in groups[row]):
            shown[row] = True
            room[shopper[row]] -= 1
            for group in groups[row]:
                left[group] -= 1
    return shown


def violations(chosen: np.ndarray, shopper: np.ndarray, top: int, caps: Sequence[Cap]) -> int:
    """How many shoppers see more than `top`, and groups have more or less exposures than they may."""
    broken = int((np.bincount(shopper[chosen]) > top).sum()) if chosen.any() else 0
    for cap in caps:
        shown = int(chosen[cap.members].sum())
        broken += shown < cap.least or (cap.most is not None and shown > cap.most)
    return broken


def _check_minimums(caps: Sequence[Cap]) -> None:
    for cap in caps:
        most = len(cap.members) if cap.most is None else min(cap.most, len(cap.members))
        if cap.least > most:
            raise UserError(
                f"{cap.name} is to be shown at least {cap.least:,} times, but can be {most:,} times at most: "
                "lower the minimum, raise the cap, or add shoppers"
            )


def _worth_asking(shopper: np.ndarray, gain: np.ndarray, top: int, caps: Sequence[Cap]) -> np.ndarray:
    """Rows that some best slates need: of a shopper's candidates in the very same groups, the `top` with most gain."""
    signature = np.zeros(len(gain), dtype=np.int64)
    for cap in caps:
        inside = np.zeros(len(gain), dtype=np.int64)
        inside[cap.members] = 1
        signature = np.unique(2 * signature + inside, return_inverse=True)[1]
    order = np.lexsort((-gain, signature, shopper))
    same = (np.diff(shopper[order]) == 0) & (np.diff(signature[order]) == 0)
    starts = np.flatnonzero(np.concatenate([[True], ~same])) if len(order) else np.zeros(0, dtype=np.int64)
    sizes = np.diff(np.append(starts, len(order)))
    position = np.arange(len(order)) - np.repeat(starts, sizes)
    return np.sort(order[position < top])


def _constraints(shopper: np.ndarray, top: int, caps: Sequence[Cap], rows: np.ndarray) -> LinearConstraint:
    count = len(rows)
    column = np.full(len(shopper), -1, dtype=np.int64)
    column[rows] = np.arange(count)
    names, number = np.unique(shopper[rows], return_inverse=True)
    blocks = [csr_array((np.ones(count), (number, np.arange(count))), shape=(len(names), count))]
    lower, upper = [np.full(len(names), -np.inf)], [np.full(len(names), float(top))]
    if caps:
        members = [column[cap.members] for cap in caps]
        members = [inside[inside >= 0] for inside in members]
        cap_index = np.repeat(np.arange(len(caps)), [len(inside) for inside in members])
        inside = np.concatenate(members)
        blocks.append(csr_array((np.ones(len(inside)), (cap_index, inside)), shape=(len(caps), count)))
        lower.append(np.array([float(cap.least) for cap in caps]))
        upper.append(np.array([np.inf if cap.most is None else float(cap.most) for cap in caps]))
    return LinearConstraint(vstack(blocks, format="csr"), np.concatenate(lower), np.concatenate(upper))


def _solve(gain: np.ndarray, constraints: LinearConstraint, integer: bool, seconds: float) -> OptimizeResult:
    """HiGHS on these rows; raises UserError where there are no such slates, or none were found in time."""
    options = {"mip_rel_gap": RELATIVE_GAP, "time_limit": seconds} if integer else {}
    solution = milp(
        -gain,
        integrality=np.full(len(gain), int(integer)),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options=options,
    )
    if solution.status == INFEASIBLE:
        raise UserError("no slates keep all minimums and caps together: lower a minimum, raise a cap or raise top")
    if solution.x is None:
        raise UserError(f"no slates were found within {seconds:g} s ({solution.message}): set fewer minimums")
    return solution

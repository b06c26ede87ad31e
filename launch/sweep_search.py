"""A sweep with several goals: runs, proposals from their evaluations, further runs; at the end its front of draws."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from equipoise.common.atomic import atomic_write
from equipoise.common.console import new_table
from equipoise.common.errors import UserError
from equipoise.common.page.colours import DOMINATED, FRONT
from equipoise.evaluation.compare.run_records import json_object
from equipoise.evaluation.front.pareto import front_mask
from equipoise.evaluation.front.plot import draw
from equipoise.evaluation.metrics.metric_names import direction, metrics_of, words
from equipoise.sweep.config import GoalConfig, SweepConfig
from equipoise.sweep.plan import PlannedRun, draw_settings, make_plan, short_keys
from equipoise.sweep.record import evaluation
from equipoise.sweep.search import draws_of, propose, read_proposed, write_proposed

NAME = "front"


@dataclass(frozen=True)
class Results:
    """What the draws of a search gave.

    Attributes:
        goals: names of the metrics.
        signs: 1 where a goal is made large, −1 where small, int64 (K,).
        draws: in the order in which they were made.
        names: of each draw's runs.
        values: means over the seeds, float64 (draws, K); NaN where a run is not evaluated.
    """

    goals: tuple[str, ...]
    signs: np.ndarray
    draws: list[dict[str, Any]]
    names: list[list[str]]
    values: np.ndarray

    @property
    def front(self) -> list[int]:
        """Numbers of the draws that no other one dominates, by their first goal."""
        known = np.flatnonzero(np.isfinite(self.values).all(axis=1))
        if not len(known):
            return []
        best = known[front_mask(self.signs * self.values[known])]
        return sorted(best.tolist(), key=lambda n: -self.signs[0] * self.values[n, 0])


def run_search(
    sweep: SweepConfig, run: Callable[[list[PlannedRun]], None], parallel: int, say: Callable[[str], None]
) -> list[PlannedRun]:
    """Execute a search to its end, or what is left of it.

    Args:
        sweep: with `search`.
        run: executes what is left of a plan.
        parallel: how many draws are proposed at a time.
        say: is told what is proposed.

    Returns:
        the whole plan.

    Raises:
        UserError: a goal is no number of the evaluations.
    """
    assert sweep.random is not None
    while True:
        plan = search_plan(sweep)
        run(plan)
        found, proposed = results(sweep, plan), read_proposed(sweep)
        wanted = min(parallel, sweep.random.count - len(found.draws))
        if wanted <= 0:
            return plan
        tried, values = list(found.draws), found.signs * found.values
        for _ in range(wanted):
            draw_ = propose(sweep.random, tried, values, len(proposed))
            if draw_ is None:
                say("every draw that was found has been tried: the search ends")
                break
            proposed.append(draw_)
            tried.append(draw_)
            values = np.concatenate([values, np.full((1, values.shape[1]), np.nan)])
        if len(tried) == len(found.draws):
            return plan
        write_proposed(sweep, proposed)
        for draw_ in tried[len(found.draws) :]:
            say(f"proposed: {_settings(draw_)}")


def search_plan(sweep: SweepConfig) -> list[PlannedRun]:
    """The runs of a search that are known so far."""
    assert sweep.random is not None
    return make_plan(sweep, draws_of(sweep, read_proposed(sweep), draw_settings(sweep.random)))


def results(sweep: SweepConfig, plan: Sequence[PlannedRun]) -> Results:
    """What the runs of a plan gave.

    Raises:
        UserError: a goal is no number of evaluations that are there, or it is not known which way is better.
    """
    assert sweep.search is not None and sweep.random is not None and sweep.evaluate is not None
    goals = tuple(goal.metric for goal in sweep.search.goals)
    split, seeds = sweep.evaluate.split[0], max(1, len(sweep.seeds))
    rows = np.array([_values(run.folder, split, goals) for run in plan]).reshape(-1, seeds, len(goals))
    draws = draws_of(sweep, read_proposed(sweep), draw_settings(sweep.random))
    names = [[run.name for run in plan[n : n + seeds]] for n in range(0, len(plan), seeds)]
    signs = np.array([_sign(goal) for goal in sweep.search.goals])
    return Results(goals, signs, draws, names, rows.mean(axis=1))


def _values(folder: Path, split: str, goals: Sequence[str]) -> list[float]:
    report = json_object(evaluation(folder, split), f"run `equipoise evaluate {folder} --split {split}` again")
    if report is None:
        return [np.nan] * len(goals)
    found = metrics_of(report)
    for goal in goals:
        if goal not in found:
            some = ", ".join(list(found)[:12])
            raise UserError(f"search.goals: {folder} has no metric '{goal}': name some of those measured ({some}, …)")
    return [found[goal] for goal in goals]


def _sign(goal: GoalConfig) -> int:
    if goal.goal is not None:
        return 1 if goal.goal == "maximize" else -1
    sign = direction(goal.metric)
    if not sign:
        raise UserError(
            f"search.goals: neither way of {goal.metric} is better: write {{metric: {goal.metric}, goal: maximize}} or "
            "minimize"
        )
    return sign


def front_table(found: Results) -> Table:
    """The draws of the front with their goals and settings, by the first goal."""
    settings = short_keys(found.draws[0])
    count = int(np.isfinite(found.values).all(axis=1).sum())
    title = f"{len(found.front)} of {count} evaluated draws are on the front"
    table = new_table(title, ["draw"], [*map(words, found.goals), *settings.values()])
    for number in found.front:
        draw_ = found.draws[number]
        shown = (_number(draw_[key]) for key in settings)
        table.add_row(str(number), *(f"{value:.4f}" for value in found.values[number]), *shown)
    return table


def write_front(found: Results, folder: Path) -> Path:
    """Write front.json and front.png into the sweep's folder; returns the picture."""
    front = found.front
    rows = [
        {"draw": n, "runs": found.names[n], "goals": dict(zip(found.goals, found.values[n].tolist(), strict=True)),
         "settings": found.draws[n], "on_front": n in front}
        for n in range(len(found.draws)) if np.isfinite(found.values[n]).all()
    ]  # fmt: skip
    with atomic_write(folder / f"{NAME}.json") as partial:
        partial.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", "utf-8")
    draw(folder / f"{NAME}.png", front_figure(found))
    return folder / f"{NAME}.png"


def front_figure(found: Results) -> Figure:
    """One panel per goal but the first, which is every panel's height; draws of the front by their numbers."""
    front, others = found.front, range(1, len(found.goals))
    figure = Figure(figsize=(5.0 * len(others) + 0.5, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    for panel, goal in zip(figure.subplots(1, len(others), sharey=True, squeeze=False)[0], others, strict=True):
        x, y = found.values[:, goal], found.values[:, 0]
        panel.scatter(x, y, s=22, color=DOMINATED, label="dominated")
        panel.plot(x[front], y[front], "o-" if len(found.goals) == 2 else "o", color=FRONT, label="front")
        for number in front:
            panel.annotate(str(number), (x[number], y[number]), xytext=(4, 4), textcoords="offset points", fontsize=8)
        panel.set_xlabel(words(found.goals[goal]))
        panel.grid(alpha=0.3)
    figure.axes[0].set_ylabel(words(found.goals[0]))
    figure.axes[0].legend(frameon=False)
    return figure


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _settings(draw_: dict[str, Any]) -> str:
    return ", ".join(f"{key}={_number(value)}" for key, value in draw_.items())

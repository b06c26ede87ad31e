"""`equipoise front RUN`: measure many trade-offs without training again, draw their front, choose one, test it.

Runs in one process, or in many under `equipoise launch front RUN`, which share the scoring.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.common.errors import UserError
from equipoise.common.logs import rendered
from equipoise.configs.load import read_run_config
from equipoise.configs.schema import RunConfig
from equipoise.evaluation.evaluate_run import ranking_attributes
from equipoise.evaluation.front.axes import Measured, read_axes, read_axis
from equipoise.evaluation.front.choice import Choice, by_constraint, by_knee, by_weights, parse_weights
from equipoise.evaluation.front.constraint import Constraint, parse_constraints
from equipoise.evaluation.front.front_record import choice_record, front_record, kept_on_test, operating_point
from equipoise.evaluation.front.grid import Grid, parse_levels, usual_omegas
from equipoise.evaluation.front.money import MONEY, Money
from equipoise.evaluation.front.pareto import Front
from equipoise.evaluation.front.plot import draw, figure_of
from equipoise.evaluation.front.points import Measurement, TradeOffScorer
from equipoise.evaluation.front.rerank_baselines import rerank, volume_table, volumes
from equipoise.evaluation.front.table import choices_in_words, front_sentence, front_table, kept_sentences
from equipoise.evaluation.options import FrontOptions
from equipoise.evaluation.report import json_ready, write_json
from equipoise.evaluation.split_scores import SplitScores
from equipoise.export.operating_point import POINT_FILE, check_export, update_export, write_operating_point
from equipoise.train.list_fit import list_rule
from equipoise.train.trackers import mlflow_run, wandb_run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """The options, read and checked against the run before anything is scored."""

    measured: Measured
    grid: Grid
    axes: tuple[str, ...]
    weights: dict[str, float]
    constraints: tuple[Constraint, ...]
    maximize: str
    confidence: float

    def named(self) -> set[str]:
        """Axes that the front or a choice reads."""
        bounded = {constraint.axis for constraint in self.constraints}
        return {*self.axes, *self.weights, *bounded} | ({self.maximize} if self.maximize else set())


def make_plan(config: RunConfig, options: FrontOptions) -> Plan:
    """Read the options for a run.

    Raises:
        UserError: an option cannot be read, or asks for what this run does not measure.
    """
    options.ways()
    if not 0 <= options.confidence < 1:
        raise UserError(f"--confidence {options.confidence:g} is no share from 0 to below 1: give such as 0.9")
    if options.points < 2 or options.resamples < 0:
        raise UserError("--points must be at least 2 and --resamples at least 0: raise them")
    measured = _measured(config, options)
    known = measured.axes(conversions=True)
    named = (known, measured.cutoff)
    by_objective = dict(measured.objectives)
    axes = read_axes(options.axes, *named, by_objective) if options.axes else _default_axes(config, measured)
    weights = parse_weights(options.weights, *named, by_objective) if options.weights is not None else {}
    where = parse_constraints(options.where, *named, by_objective) if options.where is not None else ()
    maximize = read_axis(options.maximize, *named, "--maximize", by_objective) if options.maximize else ""
    return Plan(measured, _grid(config, options), axes, weights, where, maximize, options.confidence)


def _measured(config: RunConfig, options: FrontOptions) -> Measured:
    values = parse_levels(options.value, "--value")
    if len(values) > 1:
        raise UserError(f"--value names {' and '.join(values)}: name one field")
    field = next(iter(values), None)
    if field is not None and field not in config.data.fields:
        raise UserError(f"--value names '{field}', which is no field of this run: add it to data.fields and prepare")
    cutoffs = config.evaluate.cutoffs
    cutoff = options.cutoff if options.cutoff is not None else max(cutoffs, default=10)
    if cutoff < 1:
        raise UserError(f"--cutoff {cutoff} ranks nothing: give at least 1")
    attributes = ranking_attributes(config)
    objectives = tuple((name, spec.axis.name) for name, spec in config.objectives.specs().items() if spec.axis)
    kinds = (attributes.diversity, attributes.category, attributes.provider, field, attributes.own, objectives)
    return Measured(cutoff, *kinds, money=options.logs is not None)


def _default_axes(config: RunConfig, measured: Measured) -> tuple[str, ...]:
    """Relevance, one axis per list-wise objective, and value where it is asked for."""
    specs = config.objectives.specs()
    moved = [spec.axis.name for spec in specs.values() if spec.kind == "listwise" and spec.axis is not None]
    axes = ("ndcg", *dict.fromkeys(moved), *(["value"] if measured.value_field else []))
    axes += (MONEY,) if measured.money else ()
    known = measured.axes(conversions=True)
    measurable = tuple(axis for axis in axes if axis in known)
    if len(measurable) < 2:
        raise UserError(
            "this run has no list-wise objective, so relevance stands alone: name two axes, such as "
            "--axes ndcg_click,ndcg_conversion with --relevance cvr=0,0.5,1,2"
        )
    return measurable


def _grid(config: RunConfig, options: FrontOptions) -> Grid:
    listwise = config.objectives.of_kind("listwise")
    pointwise = [name for name, spec in config.objectives.specs().items() if spec.in_relevance]
    rule = list_rule(config)
    omega = {name: usual_omegas(rule, name) for name in listwise}
    for name, levels in parse_levels(options.omegas, "--omegas").items():
        if name not in listwise:
            raise UserError(f"--omegas names '{name}', no list-wise objective of this run ({', '.join(listwise)})")
        omega[name] = levels
    relevance = parse_levels(options.relevance, "--relevance")
    for name in relevance:
        if name not in pointwise:
            raise UserError(f"--relevance names '{name}', no pointwise objective of this run ({', '.join(pointwise)})")
    value = parse_levels(options.value, "--value")
    exponents = config.relevance_exponents()
    plain = all(exponents.get(name) == 1 for name in pointwise)
    grid = Grid(omega, relevance, value, options.points, config.seed, None if plain else exponents)
    if len(grid.points()) < 2:
        raise UserError("the grid holds pure relevance alone: give --omegas or --relevance more values")
    return grid


def front_of_run(folder: str | Path, overrides: Sequence[str] = (), **options: Any) -> dict[str, Any] | None:
    """Measure trade-offs on the valid split without training again, choose one, and test it; draw front.png.

    Args:
        folder: run folder that `train` wrote.
        overrides: settings to change, as `key.sub=value`.
        options: those of the command `equipoise front`, with _ for -: where="ndcg>=98%", maximize="exposure_ratio",
            knee=True, axes="ndcg,ild", requests=60.

    Returns:
        What front.json holds: `points`, `front` (numbers of points), `choices`, `chosen`. None on all processes but
        the first.

    Raises:
        UserError: the run is unfinished or does not fit its data, an option cannot be read, or nothing fulfils it.
    """
    known = [each.name for each in fields(FrontOptions)]
    for name in options:
        if name not in known:
            raise UserError(f"front has no option '{name}': name one of {', '.join(known)}")
    return measure_front(Path(folder), FrontOptions(**options), overrides)


def measure_front(folder: Path, options: FrontOptions, overrides: Sequence[str] = ()) -> dict[str, Any] | None:
    """Write front.json, front.png and operating_point.json into the run folder, and the choice into an export.

    Returns:
        What front.json holds; None on all processes but the first.

    Raises:
        UserError: the run is unfinished or does not fit its data, an option cannot be read, or nothing fulfils it.
    """
    config = read_run_config(folder, overrides)
    plan = make_plan(config, options)
    scores = SplitScores(config, folder)
    if options.export is not None:
        check_export(options.export, folder, scores.adapters)
    if options.labels is not None and options.logs is None:
        raise UserError("--labels are of --logs: add them, or leave the labels out")
    money = None
    if options.logs is not None:
        money = Money(options.logs, options.labels, config.name, scores.lists, config.seed)
    table = scores.score("valid", reuse=True, requests=options.requests)
    test_table = scores.score("test", reuse=True) if options.test else None
    if table is None:
        return None
    began = time.perf_counter()
    measure = TradeOffScorer(table, plan.measured, options.resamples, config.seed)
    measurement = measure(plan.grid.points(), tuple(plan.grid.value))
    measurement = measurement if money is None else money.added(measurement)
    log.info(
        f"{len(measurement.points):,} trade-offs ({plan.grid.to_json()['way']}) on {measure.requests:,} validation "
        f"requests of {len(table):,} impressions, {options.resamples} resamples: {time.perf_counter() - began:.1f} s"
    )
    _check_defined(measurement, plan)
    front = Front(measurement.of(plan.axes), plan.axes)
    choices = {rule: _choose(rule, measurement, plan) for rule in options.ways()}
    tests: dict[str, Measurement] = {}
    # What re-ranking of other kinds would have earned is not told by logs.
    baselines, state = ({}, None) if MONEY in plan.axes else rerank(table, measure, plan.axes)
    splits = {"valid": volumes(measurement, baselines, plan.axes)} if baselines else {}
    if test_table is not None:
        measure_test = TradeOffScorer(test_table, plan.measured, options.resamples, config.seed)
        tests = _test(measure_test, measurement, choices, plan)
        tests = tests if money is None else {rule: money.added(test) for rule, test in tests.items()}
        if baselines:
            whole = measure_test(measurement.points, tuple(plan.grid.value))
            splits["test"] = volumes(whole, rerank(test_table, measure_test, plan.axes, state)[0], plan.axes)
    records = {rule: choice_record(choice, measurement, front, tests.get(rule)) for rule, choice in choices.items()}
    log.info(front_sentence(front))
    if splits:
        log.info(rendered(volume_table(splits, plan.axes)))
    log.info(rendered(front_table(measurement, front, choices, plan.measured.cutoff)))
    for part in choices_in_words(records, measurement):
        log.info(rendered(part))
    about = front_record(config, plan.grid, measure, measurement, front)
    reranked = {name: each.to_json(plan.axes) for name, each in baselines.items()}
    about["rerankers"] = {"volumes": splits, "points": reranked}
    if "constraint" in tests:
        kept = kept_on_test(plan.constraints, tests["constraint"])
        records["constraint"]["kept_on_test"] = kept
        log.info("\n".join(kept_sentences(kept)))
    record = {**about, "chosen": options.chosen(), "choices": records}
    write_json(record, folder / "front.json")
    lines = {name: each.values for name, each in baselines.items()}
    title, cutoff = _title(config, measure, front), plan.measured.cutoff
    draw(folder / "front.png", figure_of(measurement, front, choices, title, cutoff, lines))
    way = options.chosen()
    if way is None:
        log.info(_nothing_chosen(folder))
    else:
        chosen = operating_point(choices[way], measurement, plan.grid, measure)
        _hand_over(folder, chosen, options.export, scores.adapters)
    plain: dict[str, Any] = json_ready(record)
    hint = wandb_run.tell_front(config, folder, plain)
    mlflow_run.tell_front(config, folder, record)
    if hint:
        log.info(f"W&B was offline; send the front with: {hint}")
    return plain


def _title(config: RunConfig, measure: TradeOffScorer, front: Front) -> str:
    volume = front.covered()
    return (
        f"{config.name}: {len(front.values)} trade-offs on {measure.requests} validation requests; "
        f"{len(front.points)} on the front, hypervolume {volume['normalised']:.3f} of its box "
        f"(pure relevance alone {volume['normalised_relevance_alone']:.3f})"
    )


def _nothing_chosen(folder: Path) -> str:
    """What is said where no way to choose was asked for."""
    held = folder / POINT_FILE
    now = f"{held} stays as it was chosen before" if held.is_file() else "exports rank by pure relevance"
    return (
        f"front: {folder / 'front.json'}   picture: {folder / 'front.png'}\nnothing is chosen, {now}: choose with "
        "--where and --maximize, --weights or --knee"
    )


def _hand_over(folder: Path, chosen: dict[str, Any], export: Path | None, adapters: Path) -> None:
    """Write the choice where `equipoise export` finds it, and into an export that is there."""
    point = write_operating_point(folder, chosen, adapters)
    log.info(f"front: {folder / 'front.json'}   picture: {folder / 'front.png'}   choice: {point}")
    if export is not None:
        update_export(export, folder, adapters)
        log.info(f"the choice is in {export / 'serving.json'} and its model card")


def _check_defined(measurement: Measurement, plan: Plan) -> None:
    for axis in sorted(plan.named()):
        if axis not in measurement.axes or not np.isfinite(measurement.of([axis])).all():
            raise UserError(
                f"{axis} is not defined on the scored validation requests (no conversion, a single group or single "
                "candidates): score more with --set evaluate.max_requests=N, or leave it out of --axes and the choice"
            )


def _choose(rule: str, measurement: Measurement, plan: Plan) -> Choice:
    if rule == "weights":
        return by_weights(measurement, plan.weights)
    if rule == "constraint":
        return by_constraint(measurement, plan.constraints, plan.maximize, plan.confidence)
    return by_knee(measurement, plan.axes)


def _test(
    measure: TradeOffScorer, measurement: Measurement, choices: dict[str, Choice], plan: Plan
) -> dict[str, Measurement]:
    """Per choice pure relevance (point 0) and the chosen point (point 1) on the test split."""
    plain = measurement.points[0]
    fields = tuple(plan.grid.value)
    return {rule: measure([plain, measurement.points[choice.point]], fields) for rule, choice in choices.items()}

"""`equipoise ope LOGS`: what operating points, or another system's rankings, would have earned."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from equipoise.common.atomic import atomic_write
from equipoise.common.digest import KEY as DIGEST
from equipoise.common.digest import record_digest
from equipoise.common.errors import UserError
from equipoise.common.lists import ListRule
from equipoise.common.logs import rendered
from equipoise.evaluation.ope.estimators import ASSUMPTIONS, ESTIMATORS, Estimate, Judge, Support
from equipoise.evaluation.ope.policies import Lister, Policy, read_policies, read_ranking
from equipoise.evaluation.ope.shown import ShownLists, read_shown
from equipoise.evaluation.options import OpeOptions
from equipoise.export.files import open_record

log = logging.getLogger(__name__)

SHOWN = "as shown"


@dataclass(frozen=True)
class Judged:
    """A judged list, its support, and estimates by reward and estimator; none where the log does not tell enough."""

    name: str
    about: dict[str, Any]
    support: Support
    estimates: dict[str, dict[str, Estimate]]

    def to_json(self, differences: dict[str, Estimate]) -> dict[str, Any]:
        """Everything; `differences`: to the first judged list, by reward."""
        return {
            **self.about,
            "name": self.name,
            "support": self.support.to_json(),
            "refused": self.support.refusal,
            "warning": None if self.support.refusal else self.support.warning,
            "estimates": {
                reward: {name: each.to_json() for name, each in found.items()}
                for reward, found in self.estimates.items()
            },
            "difference": {reward: each.to_json() for reward, each in differences.items()},
        }


def judge_logs(logs: Path, options: OpeOptions) -> dict[str, Any]:
    """Judge operating points by a log, show them as a table, and write them where asked to.

    Returns:
        What the JSON file holds.

    Raises:
        UserError: the log or an option cannot be read, or nothing is named that could be judged.
    """
    if options.estimator not in ESTIMATORS:
        raise UserError(f"--estimator {options.estimator} is none: name one of {', '.join(ESTIMATORS)}")
    if options.assume not in ASSUMPTIONS:
        raise UserError(f"--assume {options.assume} is no assumption: name one of {', '.join(ASSUMPTIONS)}")
    if options.export is None and options.policy is None and options.ranking is None:
        raise UserError("nothing is named that could be judged: add --export, --policy or --ranking")
    rule, version, points = None, options.version, []
    if options.export is not None:
        record = open_record(options.export)
        rule = ListRule.of(record.get("lists"))
        version = version or f"{record['run']}@{(record.get(DIGEST) or record_digest(record))[:12]}"
        points.append(Policy("the export's point", dict(record["operating_point"]["omega"])))
        points += [Policy("pure relevance")] if any(points[0].omega.values()) else []
    points += read_policies(options.policy) if options.policy is not None else []
    shown = read_shown(logs, options.labels, version)
    judge = Judge(shown, options.assume)
    judged = judge_points(judge, Lister(shown, rule), points) if points else []
    if options.ranking is not None:
        order_RK, path = read_ranking(options.ranking, shown), options.ranking
        judged.append(_judged(judge, path.name, {"ranking": str(path)}, order_RK))
    record = _record(judge, judged, options)
    log.info(rendered(_table(judge, judged, options.estimator)))
    for each in judged:
        if reason := each.support.refusal or each.support.warning:
            log.warning(f"{each.name}: {reason}")
    for reason, count in shown.skipped.items():
        log.warning(f"{count:,} requests are left out: {reason}")
    if options.out is not None:
        with atomic_write(options.out) as partial:
            partial.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return record


def judge_points(judge: Judge, lister: Lister, points: list[Policy]) -> list[Judged]:
    """Judge operating points, each by its lists of the logged candidates."""
    return [_judged(judge, point.name, point.to_json(), lister(point)) for point in points]


def _judged(judge: Judge, name: str, about: dict[str, Any], order_RK: np.ndarray) -> Judged:
    weight_RK = judge.weights(order_RK)
    support = judge.support(weight_RK)
    estimates: dict[str, dict[str, Estimate]] = {}
    for reward in judge.shown.rewards if support.refusal is None else ():
        estimates[reward] = {each: judge.estimate(order_RK, weight_RK, reward, each) for each in ESTIMATORS}
    return Judged(name, about, support, estimates)


def _record(judge: Judge, judged: list[Judged], options: OpeOptions) -> dict[str, Any]:
    first = judged[0]

    def differences(each: Judged) -> dict[str, Estimate]:
        both = [reward for reward in each.estimates if reward in first.estimates and each is not first]
        chosen = options.estimator
        return {r: judge.difference(each.estimates[r][chosen], first.estimates[r][chosen]) for r in both}

    shown = judge.shown
    return {
        "version": shown.version,
        "requests": len(shown),
        "users": judge.users,
        "skipped": dict(shown.skipped),
        "assumption": judge.assumption,
        "estimator": options.estimator,
        "shown": {reward: judge.as_shown(reward).to_json() for reward in shown.rewards},
        "judged": [each.to_json(differences(each)) for each in judged],
    }


def _table(judge: Judge, judged: list[Judged], estimator: str) -> Table:
    shown: ShownLists = judge.shown
    title = f"earned per request, by {estimator} ({judge.assumption}), of {len(shown):,} lists of {shown.version}"
    table = Table(title=title)
    table.add_column("list")
    for reward in shown.rewards:
        table.add_column(reward, justify="right")
    table.add_column("effective", justify="right")
    own = [_words(judge.as_shown(reward)) for reward in shown.rewards]
    table.add_row(SHOWN, *own, f"{len(shown):,}")
    for each in judged:
        cells = [_words(each.estimates[r][estimator]) if r in each.estimates else "–" for r in shown.rewards]
        table.add_row(each.name, *cells, f"{each.support.effective:,.0f}")
    return table


def _words(estimate: Estimate) -> str:
    return f"{estimate.value:.4g} ± {estimate.interval[1] - estimate.value:.2g}"

"""equipoise campaign: the slates of a whole campaign, under caps that hold over all shoppers (docs/campaigns.md)."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from rich.console import Console

from equipoise.common.atomic import atomic_write
from equipoise.common.console import new_console
from equipoise.common.errors import UserError
from equipoise.common.progress import ProgressBar
from equipoise.configs.campaign import Campaign, read_campaign
from equipoise.data.requests.table import RequestTable, open_requests, request_connection
from equipoise.export.serving_record import calibration_lines_of, read_serving_record
from equipoise.launch.campaign_requests import CampaignRequests
from equipoise.launch.options import CampaignOptions
from equipoise.scoring.ranking_file import ENDINGS, ranking_file
from equipoise.scoring.recommend import common_candidates
from equipoise.serving.allocation import Allocation, Cap, allocate, fill, violations
from equipoise.serving.expected_value import expected_value
from equipoise.serving.frames import prepared_requests, ranking_columns
from equipoise.serving.recommender import Recommender

MORE = ("value", "boost")
REPORT = ".report.json"


@dataclass(frozen=True)
class CampaignScores:
    """All candidates of all shoppers.

    Attributes:
        table: one row per candidate, with the columns of a ranking file, value and boost.
        shopper: number of the request of each row, int64 (N,).
        groups: by attribute the group of each row as text, None where unknown, object (N,).
    """

    table: pa.Table
    shopper: np.ndarray
    groups: dict[str, np.ndarray]

    def gain(self) -> np.ndarray:
        """e^u of each row, float64 (N,): without ω the expected value pCTR · pCVR · value^weight · e^boost."""
        return np.exp(self.table.column("utility").to_numpy())


def choose_slates(export: Path, path: Path, users: Path, out: Path, options: CampaignOptions) -> None:
    """Score all requests, choose the slates, and write them to `out` and what they reach to `out`.report.json.

    Raises:
        UserError: a file or a request cannot be read, the campaign asks for what is not there, its caps cannot be
            kept, or `out` exists.
    """
    campaign = read_campaign(path)
    if out.exists() and not options.overwrite:
        raise UserError(f"{out} exists: name another file or add --overwrite")
    if not out.name.lower().endswith(ENDINGS):
        raise UserError(f"{out} has an unknown ending: use {', '.join(ENDINGS)}")
    console = new_console()
    with request_connection() as con:
        table = open_requests(con, users)
        recommender = Recommender.load(
            export, device=options.device, max_candidates=options.max_candidates, base=options.base
        )
        requests = _requests(con, campaign, recommender, table, options.candidates)
        scores = _score(recommender, requests, table, console)
    caps = _caps(campaign, scores, path)
    began = time.monotonic()
    gain = scores.gain()
    allocation = allocate(scores.shopper, gain, campaign.top, caps)
    seconds = time.monotonic() - began
    _write(recommender, scores, allocation.chosen, requests.maker.names, out)
    lines = calibration_lines_of(read_serving_record(export))
    record = _record(campaign, scores, allocation, caps, gain, lines)
    with atomic_write(out.with_name(out.name + REPORT)) as partial:
        partial.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    console.print(
        f"{campaign.name}: {record['shown']:,} exposures for {record['shoppers']:,} shoppers, objective "
        f"{allocation.value:.6g} (at most {100 * allocation.gap:.3g} % below the best; greedily "
        f"{record['greedy_objective']:.6g}), {len(caps):,} caps, {record['violations']} broken, "
        f"{allocation.way} in {seconds:.1f} s: {out}",
        soft_wrap=True,
    )
    console.print(_expectation(record), soft_wrap=True)


def _expectation(record: Mapping[str, Any]) -> str:
    """One sentence: what is expected, its interval, and what that holds."""
    (low, high), (least, most) = record["expected_value_interval"], record["realised_value_interval"]
    sure = "resampled shoppers and calibration" if record["calibration_in_interval"] else "resampled shoppers"
    text = f"expected value {record['expected_value']:.6g} (95 % interval {low:.6g} to {high:.6g} for other shoppers "
    text += f"like these: {sure}; these will bring {least:.6g} to {most:.6g})"
    if record["calibration_in_interval"]:
        return text
    return f"{text}; how sure the probabilities are is not known: train with train.calibration and export again"


def _requests(
    con: duckdb.DuckDBPyConnection,
    campaign: Campaign,
    recommender: Recommender,
    table: RequestTable,
    common: Path | None,
) -> CampaignRequests:
    if common is None:
        if "item_id" not in table.kinds:
            raise UserError(f"{table.path} has no column item_id: add the candidates, or a list with --candidates")
        return CampaignRequests(campaign, recommender, table)
    if "item_id" in table.kinds:
        raise UserError(f"{table.path} has candidates of its own (item_id): drop the column or --candidates")
    candidates = common_candidates(con, common, recommender)
    rows = con.cursor().sql("SELECT * FROM candidates").to_arrow_table().to_pylist()
    return CampaignRequests(campaign, recommender, table, candidates, rows, common)


def _score(
    recommender: Recommender, requests: CampaignRequests, table: RequestTable, console: Console
) -> CampaignScores:
    objectives = (recommender.pointwise, recommender.listwise)
    parts: list[pa.Table] = []
    counts: list[int] = []
    groups: dict[str, list[str | None]] = {name: [] for name in requests.campaign.attributes}
    prepared = prepared_requests(table, requests.columns, requests.prepare)
    with (
        ProgressBar("scoring", table.count(), "requests", console=console) as bar,
        closing(recommender.stream(prepared, itemgetter(0))) as ranked,
    ):
        for portion, ranked_portion in ranked:
            rankings = [ranking.as_given() for ranking in ranked_portion]
            columns = ranking_columns(objectives, rankings, [identity for _, identity, _ in portion])
            given = [scored for ranking in rankings for scored in ranking.candidates]
            columns |= {name: [getattr(scored, name) for scored in given] for name in MORE}
            texts = {name: pa.array(columns[name], pa.string()) for name in (*requests.maker.names, "item_id")}
            numbers = {name: pa.array(values) for name, values in columns.items() if name not in (*texts, "value")}
            parts.append(pa.table({**texts, **numbers, "value": pa.array(columns["value"], pa.float64())}))
            counts += [len(ranking.candidates) for ranking in rankings]
            for _, _, named in portion:
                for name, values in named.items():
                    groups[name] += values
            bar.advance(len(portion))
    shopper = np.repeat(np.arange(len(counts)), counts)
    return CampaignScores(
        pa.concat_tables(parts), shopper, {name: np.array(labels, object) for name, labels in groups.items()}
    )


def _caps(campaign: Campaign, scores: CampaignScores, path: Path) -> list[Cap]:
    """The caps of the groups that are there.

    Raises:
        UserError: a rule names a group that no candidate belongs to.
    """
    caps = []
    rows_of = {name: _rows_by_group(values) for name, values in scores.groups.items()}
    for rule in campaign.caps:
        rows_by_group = rows_of[rule.attribute]
        if rule.group is not None and rule.group not in rows_by_group:
            raise UserError(
                f"{path}: caps name the {rule.attribute} '{rule.group}', which no candidate has: correct its spelling "
                "or drop the rule"
            )
        chosen = rows_by_group if rule.group is None else {rule.group: rows_by_group[rule.group]}
        caps += [Cap(f"{rule.attribute} '{group}'", rows, rule.most, rule.least) for group, rows in chosen.items()]
    for boost in campaign.boosts:
        if boost.group not in rows_of[boost.attribute]:
            raise UserError(f"{path}: boosts name the {boost.attribute} '{boost.group}', which no candidate has")
    return caps


def _rows_by_group(values: np.ndarray) -> dict[str, np.ndarray]:
    known = np.flatnonzero(np.array([value is not None for value in values], dtype=bool))
    names, number = np.unique(values[known].astype(str), return_inverse=True)
    order = np.argsort(number, kind="stable")
    parts = np.split(known[order], np.cumsum(np.bincount(number, minlength=len(names)))[:-1])
    return dict(zip(names.tolist(), parts, strict=True)) if len(names) else {}


def _write(recommender: Recommender, scores: CampaignScores, chosen: np.ndarray, names: list[str], out: Path) -> None:
    """The shown candidates, shopper by shopper, ranked by utility among what is shown."""
    rows = np.flatnonzero(chosen)
    utility = scores.table.column("utility").to_numpy()[rows]
    order = np.lexsort((rows, -utility, scores.shopper[rows]))
    rows = rows[order]
    shopper = scores.shopper[rows]
    starts = np.flatnonzero(np.diff(shopper, prepend=-1))
    rank = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows)))) + 1
    table = scores.table.take(pa.array(rows))
    columns: Mapping[str, Sequence[Any]] = {
        **{name: table.column(name).to_pylist() for name in table.column_names},
        "rank": rank.tolist(),
    }
    with ranking_file(out, names, recommender.pointwise, recommender.listwise, MORE) as write:
        write(columns)


def _record(
    campaign: Campaign,
    scores: CampaignScores,
    allocation: Allocation,
    caps: Sequence[Cap],
    gain: np.ndarray,
    lines: Mapping[str, Sequence[Sequence[float]]],
) -> dict[str, Any]:
    chosen = allocation.chosen
    columns = {name: f"p{name}" for name in ("ctr", "cvr") if f"p{name}" in scores.table.column_names}
    probabilities = {name: scores.table.column(column).to_numpy()[chosen] for name, column in columns.items()}
    given = scores.table.column("value").to_pylist()
    value = np.array([1.0 if number is None else number for number in given]) if campaign.value else np.ones(len(given))
    shoppers = int(scores.shopper[-1]) + 1
    expected = expected_value(scores.shopper[chosen], probabilities, value[chosen], shoppers, lines)
    greedy = fill(scores.shopper, gain, campaign.top, caps)
    return {
        "campaign": campaign.name,
        "shoppers": shoppers,
        "shown": int(chosen.sum()),
        "objective": allocation.value,
        "bound": allocation.bound,
        "gap": allocation.gap,
        "way": allocation.way,
        "greedy_objective": float(gain[greedy].sum()),
        "expected_value": expected.value,
        "expected_value_interval": list(expected.interval),
        "realised_value_interval": list(expected.realised),
        "calibration_in_interval": expected.calibrated,
        "violations": violations(chosen, scores.shopper, campaign.top, caps),
        "caps": [
            {"group": cap.name, "shown": int(chosen[cap.members].sum()), "most": cap.most, "least": cap.least}
            for cap in caps
        ],
    }

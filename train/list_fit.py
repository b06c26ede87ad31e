"""What a finished run knows of lists (RUN/lists.json): prices of groups, and which adjustments are worth keeping.

Prices are how weak each group is under pure relevance on the valid split. The adjustments δ of an objective are kept
only where the lists that they make are surely better on valid than those of the rule by itself, with δ = 0; else its
head is set to 0 in the saved adapters, so that whatever reads them makes the lists that training began with.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.common.lists import ListMaker, ListRule, ListTerm, discounts, filled, group_prices, pad, path_numbers
from equipoise.configs.load import read_settings
from equipoise.configs.objectives import PlacedConfig
from equipoise.configs.schema import RunConfig
from equipoise.data.slate_set import SlateSet
from equipoise.evaluation.metrics.ranking import exposure_shares, gains, rank_requests
from equipoise.evaluation.metrics.table_lists import request_sizes
from equipoise.modeling.adapter_store import TENSORS, read_info, save_adapters
from equipoise.train.checkpoint_files import checkpoints

if TYPE_CHECKING:
    from equipoise.train.objectives.base import Objective

log = logging.getLogger(__name__)

FILE_NAME = "lists.json"
JUDGED = (0.25, 1.0)
"""ω at which lists with and without δ are compared."""
SURE = 0.95
"""Share of the resamples in which lists with δ must be better for it to be kept."""
RESAMPLES = 200
SEED = 0

Prices = Mapping[str, Mapping[str, float]]
"""Objective → value of its attribute → price."""


def list_rule(config: RunConfig, prices: Prices | None = None) -> ListRule | None:
    """How the runs of a config make lists; None where they sort by relevance plus ω δ."""
    terms, places = {}, 0
    for name, spec in config.objectives.specs().items():
        options = config.objectives.options(name)
        if spec.kind != "listwise":
            continue
        if spec.term == "adjust" or not isinstance(options, PlacedConfig) or options.form == "parallel":
            terms[name] = ListTerm("adjust")
            continue
        assert spec.axis is not None, "objectives with a term are measured"
        terms[name] = ListTerm(spec.term, spec.axis.attributes(options), (prices or {}).get(name, {}))
        places = options.places
    return ListRule(places, terms) if places else None


def run_rule(config: RunConfig, run: Path) -> ListRule | None:
    """How a finished run makes lists, with its prices.

    Raises:
        UserError: what it knows of them is missing or broken.
    """
    if list_rule(config) is None:
        return None
    path = run / FILE_NAME
    try:
        return list_rule(config, json.loads(path.read_text("utf-8"))["prices"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is missing or broken: finish `equipoise train` first, or train again") from error


def check_lists(objectives: Mapping[str, "Objective"], slates: SlateSet) -> None:
    """Refuse list-wise objectives that no training request can teach anything.

    Raises:
        UserError: every request has one candidate, or all candidates are alike in what the objective reads.
    """
    tokens = slates.tokens
    alone = int(np.diff(tokens.first).max(initial=0)) < 2
    for name, objective in objectives.items():
        if objective.kind != "listwise":
            continue
        if alone:
            raise UserError(
                f"objectives.{name}: every training request has one candidate, so there is no list to learn: leave it "
                "out, or prepare requests with all that was shown together"
            )
        shown = np.unique(np.asarray(tokens.item))
        columns = {attribute: slates.items.codes(attribute) for attribute in objective.attributes}
        if columns and all(len(np.unique(codes[shown])) < 2 for codes, _ in columns.values()):
            codes, values = next(iter(columns.values()))
            raise UserError(
                f"objectives.{name}: all candidates of the training requests have the same {' and '.join(columns)} "
                f"('{values[codes[shown[0]]]}'), so there is nothing to tell apart: name another attribute, or leave "
                "it out"
            )


def in_begun_form(config: RunConfig) -> RunConfig:
    """The settings with which a run goes on: adjustments that were begun as parallel ones stay so."""
    if not checkpoints(config.output):
        return config
    begun = read_settings(config.output / "config.yaml").get("objectives") or {}
    changed = {}
    for name, options in config.objectives.active().items():
        form = (begun.get(name) or {}).get("form", "parallel")
        if isinstance(options, PlacedConfig) and options.form != form:
            log.info(f"{config.output} has begun {name} as {form}: it goes on so")
            changed[name] = options.model_copy(update={"form": form})
    if not changed:
        return config
    return config.model_copy(update={"objectives": config.objectives.model_copy(update=changed)})


def fit_lists(
    config: RunConfig, slates: SlateSet, scores: Mapping[str, np.ndarray], relevance: np.ndarray
) -> dict[str, Any]:
    """What lists.json holds of a scored split.

    Args:
        config: of the run, whose lists are filled place after place.
        slates: of the split.
        scores: of all candidates of some slates, by name; `row`, `item`, `click` and `conversion` among them, (N,).
        relevance: r of the same candidates, (N,).

    Returns:
        prices, by objective and value; learned, by objective: kept, the difference that δ makes to NDCG@K + ω · what
        the objective measures, its 95 % interval, and the requests.
    """
    bare = list_rule(config)
    assert bare is not None, "lists of this run are filled place after place"
    split = _Split(slates, scores, relevance)
    prices = {
        name: split.prices(
            term.attributes[0], bare.places, getattr(config.objectives.options(name), "target", "parity")
        )
        for name, term in bare.terms.items()
        if term.kind == "price"
    }
    rule = list_rule(config, prices)
    assert rule is not None, "as bare"
    learned = {name: split.judge(rule, name) for name, term in rule.terms.items() if term.kind != "adjust"}
    return {"prices": prices, "learned": learned}


def write_lists(run: Path, found: Mapping[str, Any]) -> None:
    """Write lists.json, and set the heads of objectives to 0 whose adjustments are not kept."""
    for name, about in found["learned"].items():
        if not about["kept"]:
            for folder in sorted(path.parent for path in run.glob(f"*/{TENSORS}")):
                _forget(folder, name)
    with atomic_write(run / FILE_NAME) as partial:
        partial.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", "utf-8")


def sentences(found: Mapping[str, Any]) -> list[str]:
    """What was decided, for each objective."""
    lines = []
    for name, about in found["learned"].items():
        low, high = about["interval"]
        what = "its adjustments are kept" if about["kept"] else "its adjustments, not surely better, are set to 0"
        lines.append(
            f"{name}: lists with what it has learned differ by {about['difference']:+.5f} ({low:+.5f} to {high:+.5f}) "
            f"in NDCG and its own measure on {about['requests']} valid requests from the rule by itself: {what}"
        )
    return lines


def _forget(folder: Path, name: str) -> None:
    tensors, key = load_file(folder / TENSORS), f"heads.{name}.out.weight"
    if tensors[key].any():
        save_adapters(folder, tensors | {key: torch.zeros_like(tensors[key])}, read_info(folder))


class _Split:
    """A scored split as padded lists."""

    def __init__(self, slates: SlateSet, scores: Mapping[str, np.ndarray], relevance: np.ndarray) -> None:
        self.slates, self.scores, self.relevance = slates, scores, relevance
        self.sizes = request_sizes(scores["row"])
        self.filled_RC = filled(self.sizes)
        self.utility_RC = pad(relevance, self.sizes, -np.inf)
        self.gain_RC = pad(gains(scores["click"], scores["conversion"]), self.sizes, 0.0)

    def _codes(self, attribute: str) -> tuple[np.ndarray, list[str]]:
        """Of each row, (N,), and the value of each code."""
        codes, values = self.slates.items.codes(attribute)
        return codes[self.scores["item"]], values

    def prices(self, attribute: str, places: int, target: str) -> dict[str, float]:
        """The price of each group, by value."""
        codes_N, values = self._codes(attribute)
        ranking = rank_requests(self.scores["row"], self.relevance)
        exposed_G, due_G = exposure_shares(ranking, codes_N, len(values), places)
        if target == "merit":
            merit_RC = np.exp(self.utility_RC - self.utility_RC.max(axis=1, keepdims=True))
            merit_RC /= merit_RC.sum(axis=1, keepdims=True)
            due_G = np.bincount(codes_N, merit_RC[self.filled_RC], len(values)) / len(self.sizes)
        found = group_prices(exposed_G, due_G)
        return {value: round(float(price), 6) for value, price in zip(values, found, strict=True)}

    def judge(self, rule: ListRule, name: str) -> dict[str, Any]:
        """Whether lists with the adjustments of an objective are surely better than those without."""
        term, alone = rule.terms[name], ListRule(rule.places, {name: rule.terms[name]})
        prices, paths = ({name: self._prices(term)}, {}) if term.kind == "price" else ({}, {name: self._paths(term)})

        def measured(order_RP: np.ndarray) -> np.ndarray:
            if prices:
                return _mean_price(order_RP, prices[name], rule.places)
            return _ild(order_RP, paths[name], rule.places)

        delta_RC = pad(self.scores[name], self.sizes, 0.0)
        with_delta, without = (
            ListMaker(alone, self.filled_RC, {name: values}, prices, paths)
            for values in (delta_RC, np.zeros_like(delta_RC))
        )
        ndcg_R, own_R = np.zeros(len(self.sizes)), np.zeros(len(self.sizes))
        for omega in JUDGED:
            one, other = (maker(self.utility_RC, {name: omega}).order_RP for maker in (with_delta, without))
            ndcg_R += self._ndcg(one) - self._ndcg(other)
            own_R += omega * (measured(one) - measured(other))
        clicked_R = self.gain_RC.sum(axis=1) > 0
        rng = np.random.default_rng(SEED)
        drawn_BR = [
            np.bincount(rng.integers(0, len(own_R), len(own_R)), minlength=len(own_R)) for _ in range(RESAMPLES)
        ]

        def differs(times_R: np.ndarray) -> float:
            total = (times_R * clicked_R).sum()
            return float((times_R * ndcg_R * clicked_R).sum() / max(total, 1) + (times_R * own_R).sum() / times_R.sum())

        samples = np.array([differs(times_R) for times_R in drawn_BR])
        return {
            "kept": bool((samples > 0).mean() >= SURE),
            "difference": differs(np.ones(len(own_R))),
            "interval": np.quantile(samples, [0.025, 0.975]).tolist(),
            "requests": len(own_R),
        }

    def _prices(self, term: ListTerm) -> np.ndarray:
        codes_N, values = self._codes(term.attributes[0])
        return pad(np.array([term.prices.get(value, 0.0) for value in values])[codes_N], self.sizes, 0.0)

    def _paths(self, term: ListTerm) -> np.ndarray:
        return pad(path_numbers([self._codes(name)[0] for name in term.attributes]), self.sizes, -1)

    def _ndcg(self, order_RP: np.ndarray) -> np.ndarray:
        discount_P = discounts(order_RP.shape[1])
        found_RP = np.where(order_RP >= 0, np.take_along_axis(self.gain_RC, order_RP.clip(min=0), axis=1), 0.0)
        best_RP = -np.sort(-self.gain_RC, axis=1)[:, : order_RP.shape[1]]
        ideal_R = best_RP @ discount_P
        return np.divide(found_RP @ discount_P, ideal_R, out=np.zeros(len(ideal_R)), where=ideal_R > 0)


def _mean_price(order_RP: np.ndarray, price_RC: np.ndarray, places: int) -> np.ndarray:
    """The mean price of what each list exposes, (R,)."""
    share_RP = discounts(order_RP.shape[1]) * (order_RP >= 0)
    price_RP = np.take_along_axis(price_RC, order_RP.clip(min=0), axis=1)
    return (share_RP * price_RP).sum(axis=1) / discounts(places).sum()


def _ild(order_RP: np.ndarray, paths_RCA: np.ndarray, places: int) -> np.ndarray:
    """Distances of each list's pairs over the pairs of K places, (R,)."""
    there_RP = order_RP >= 0
    paths_RPA = np.take_along_axis(paths_RCA, order_RP.clip(min=0)[:, :, None], axis=1)
    alike_RPP = (paths_RPA[:, :, None] == paths_RPA[:, None]).mean(axis=3)
    pairs_RPP = np.triu(there_RP[:, :, None] & there_RP[:, None], k=1)
    return ((1 - alike_RPP) * pairs_RPP).sum(axis=(1, 2)) * 2 / (places * max(places - 1, 1))

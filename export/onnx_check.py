"""An ONNX graph compared with the trained model on real slates: AUC, largest difference, latency."""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import nn

from equipoise.common.console import new_table
from equipoise.configs.schema import RunConfig
from equipoise.data.batches import Slate, build_batch
from equipoise.data.slate_set import SlateSet
from equipoise.evaluation.metrics.pointwise import auc
from equipoise.export.onnx import FOLDER, GRAPH, INT8, REPORT, OnnxModel
from equipoise.modeling.model import ForwardRequest, SlateModel
from equipoise.train.assemble import open_beside
from equipoise.train.scoring import score_slates
from equipoise.train.token_caches import find_tokens
from equipoise.train.validation import spread_rows
from equipoise.train.world import World

SAMPLE = 24
"""Slates of the test split that are scored, with all their candidates."""

TIMED = 6
TIMED_CANDIDATES = 20
"""How many slates are timed one by one, cut to so many candidates."""

ROUNDS = 3
MAX_TOKENS = 4096


def measure_graphs(config: RunConfig, model: SlateModel, folder: Path, int8: bool) -> dict[str, Any]:
    """Score a sample of the test split with each engine alternately and write onnx/report.json.

    Args:
        config: the run's config.
        model: the trained model in float32, on the CPU.
        folder: of the export, its graphs written.
        int8: whether there is a quantised graph.

    Raises:
        UserError: the prepared folder does not fit the config.
    """
    tokens = find_tokens(config)
    slates = open_beside(config, tokens, folder).slates(config.data.folder, "test", tokens)
    rows = spread_rows(len(slates), SAMPLE)
    threads = torch.get_num_threads()
    engines: dict[str, nn.Module] = {"torch": model}
    engines["onnx float32"] = OnnxModel(folder / FOLDER / GRAPH, model.offsets, threads)
    if int8:
        engines["onnx int8"] = OnnxModel(folder / FOLDER / INT8, model.offsets, threads)
    scores = {name: _score(engine, slates, rows, config.tokens.max_row) for name, engine in engines.items()}
    seconds = _latency(engines, slates, rows[:: max(1, len(rows) // TIMED)], config.tokens.max_row)
    files = {"onnx float32": GRAPH, "onnx int8": INT8}
    report = {
        "sample": {"split": "test", "slates": len(rows), **_counts(scores["torch"])},
        "timed_candidates": TIMED_CANDIDATES,
        "threads": threads,
        "engines": {
            name: {
                "auc": _aucs(outputs),
                "max_difference": _differences(outputs, scores["torch"], model.objectives),
                "ms_per_slate": round(1000 * seconds[name], 3),
                "bytes": _bytes(folder / FOLDER / files[name]) if name in files else None,
            }
            for name, outputs in scores.items()
        },
    }
    (folder / FOLDER / REPORT).write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return report


def _score(engine: nn.Module, slates: SlateSet, rows: list[int], max_row: int) -> dict[str, np.ndarray]:
    """All scores of an engine, as `score_slates` gives them."""
    cpu = torch.device("cpu")
    return score_slates(engine, slates, rows, max_tokens=MAX_TOKENS, max_row=max_row, device=cpu, world=World())


def _bytes(graph: Path) -> int:
    """Size of a graph with the weights next to it."""
    return sum(file.stat().st_size for file in graph.parent.glob(f"{graph.name}*"))


def _latency(engines: Mapping[str, nn.Module], slates: SlateSet, rows: list[int], max_row: int) -> dict[str, float]:
    """Median seconds of one slate alone, engines alternately so that a busy machine is fair to all."""
    cut = [_cut(slates.slate(row), TIMED_CANDIDATES) for row in rows]
    batches = [ForwardRequest(build_batch([slate], max_row, slates.pad_id).model_inputs()) for slate in cut]
    times: dict[str, list[float]] = {name: [] for name in engines}
    with torch.inference_mode():
        for round_ in range(ROUNDS + 1):
            for inputs in batches:
                for name, engine in engines.items():
                    start = time.perf_counter()
                    engine(request=inputs)
                    if round_:  # the first one warms up
                        times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def _cut(slate: Slate, candidates: int) -> Slate:
    """The first candidates of a slate."""
    names = ("candidates", "item", "click", "conversion")
    beside: dict[str, Any] = {
        name: None if getattr(slate, name) is None else getattr(slate, name)[:candidates]
        for name in ("features", "prior")
    }
    if slate.things is not None:
        beside["things"] = replace(slate.things, candidate=slate.things.candidate[:candidates])
    return replace(slate, **{name: getattr(slate, name)[:candidates] for name in names}, **beside)


def _counts(scores: Mapping[str, np.ndarray]) -> dict[str, int]:
    """What the AUCs stand on: a handful of positives says nothing."""
    click, conversion = scores["click"], scores["conversion"]
    return {
        "candidates": len(click),
        "clicks": int(click.sum()),
        "clicked_conversions": int((click * conversion).sum()),
    }


def _aucs(scores: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """AUC of pCTR for clicks and, with a cvr tower, of pCTR·pCVR for clicks that convert; None where undefined."""
    click, both = scores["click"], scores["click"] * scores["conversion"]
    values = {"ctr": auc(click, scores["ctr"])}
    if "cvr" in scores:
        values["ctcvr"] = auc(both, -np.logaddexp(0, -scores["ctr"]) - np.logaddexp(0, -scores["cvr"]))
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def _differences(
    scores: Mapping[str, np.ndarray], torch_scores: Mapping[str, np.ndarray], objectives: tuple[str, ...]
) -> dict[str, float]:
    """Largest absolute difference of each objective's logit or δ from the trained model's."""
    return {name: float(np.abs(scores[name] - torch_scores[name]).max()) for name in objectives}


def report_table(report: Mapping[str, Any]) -> Table:
    """The report for the terminal."""
    sample, engines = report["sample"], report["engines"]
    table = new_table(
        f"AUC: {sample['slates']} test slates ({sample['candidates']:,} candidates); time of slates of at most "
        f"{report['timed_candidates']}, {report['threads']} thread(s)",
        ["engine"],
        ["AUC ctr", "against torch", "ms per slate", "of torch", "size"],
    )
    first = engines["torch"]
    for name, about in engines.items():
        value, base = about["auc"]["ctr"], first["auc"]["ctr"]
        known = value is not None and base is not None
        table.add_row(
            name,
            f"{value:.4f}" if known else "–",
            f"{value - base:+.5f}" if known else "–",
            f"{about['ms_per_slate']:.1f}",
            f"{about['ms_per_slate'] / first['ms_per_slate']:.2f}",
            f"{about['bytes'] / 2**20:.1f} MiB" if about["bytes"] else "–",
        )
    return table

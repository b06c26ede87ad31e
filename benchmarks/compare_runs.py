"""Run folders as training and evaluation leave them, without either: for the comparison's figures and tests."""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from equipoise.configs.load import load_config
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.evaluation.report import evaluate_table, write_json

ROOT = Path(__file__).resolve().parent.parent
OMEGAS: tuple[dict[str, float], ...] = ({}, {"diversity": 1.0}, {"fairness": 1.0}, {"diversity": 1.0, "fairness": 1.0})
ITEMS = 400


@dataclass(frozen=True)
class Made:
    """A score table and its evaluation, both real."""

    table: ScoreTable
    evaluation: dict[str, Any]


def made(number: int, requests: int, candidates: int) -> Made:
    """Scores of a made-up model on made-up requests; the requests are the same for every number, the scores are not."""
    rng = np.random.default_rng(0)
    size = requests * candidates
    items = {
        "department": np.array([f"department {item % 8}" for item in range(ITEMS)], object),
        "category": np.array([f"category {item % 40}" for item in range(ITEMS)], object),
        "provider": np.array(["private" if item % 5 == 0 else "national" for item in range(ITEMS)], object),
    }
    item = rng.integers(0, ITEMS, size)
    truth = 1 / (1 + np.exp(-rng.normal(-3, 1, size)))
    click = (rng.random(size) < truth).astype(np.int8)
    conversion = (click & (rng.random(size) < 0.3)).astype(np.int8)
    users = np.repeat([f"u{n % 500}" for n in range(requests)], candidates)
    model = np.random.default_rng(1 + number)
    table = ScoreTable(
        np.repeat(np.arange(requests), candidates), item, users, click, conversion,
        np.clip(truth * np.exp(model.normal(0, 0.5, size)), 0, 1), model.random(size),
        delta={name: model.normal(0, 1, size) for name in ("diversity", "fairness")},
        user_groups={"age": np.array([f"{20 + 10 * (n % 5)}" for n in range(size)], object)},
        items=items,
    )  # fmt: skip
    report = evaluate_table(table, None, (5, 10), OMEGAS, (), ("department", "category"), "category", "provider", 0)
    return Made(table, report)


def settings(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved config of the demo, its lists by pCTR · pCVR, with some dotted keys changed; None leaves one out."""
    config = load_config(ROOT / "configs" / "demo.yaml").model_dump(mode="json") | {"relevance": None}
    for key, value in changes.items():
        *parents, last = key.split(".")
        section = config
        for parent in parents:
            section = section[parent]
        if value is None:
            section.pop(last, None)
        else:
            section[last] = value
    return config


def write_run(
    folder: Path,
    changes: Mapping[str, Any],
    scored: Made | None,
    records: int = 20,
    finished: bool = True,
    split: str = "test",
) -> Path:
    """Write one run folder and return it.

    Args:
        folder: of the run.
        changes: dotted key → value, on top of the demo's config; `name` and `output` are the folder's.
        scored: what was evaluated; None leaves the evaluation out.
        records: of the history.
        finished: whether it trained to its end.
        split: that was evaluated.
    """
    folder.mkdir(parents=True)
    config = settings({"name": folder.name, "output": str(folder), **changes})
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    rng = np.random.default_rng(zlib.crc32(folder.name.encode()))
    lines = (json.dumps(record) for record in history(list(config["objectives"]), records, rng))
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    if finished:
        summary = {"finished": True, "name": folder.name, "steps": 10 * records, "seconds": 400.0 + len(folder.name)}
        (folder / "summary.json").write_text(json.dumps(summary | {"processes": 2, "peak_memory_bytes": 3 * 2**30}))
    if scored is not None:
        write_json(scored.evaluation, folder / f"evaluation_{split}.json")
        scored.table.save(folder / f"scores_{split}.parquet")
    return folder


def history(names: Sequence[str], records: int, rng: np.random.Generator) -> list[dict[str, float]]:
    """Records as long as real ones, with a validation every fiftieth."""
    pairs = [f"{a}-{b}" for n, a in enumerate(names) for b in names[n + 1 :]]
    keys = [f"{kind}/{name}" for name in names for kind in (
        "train/loss", "train/nonfinite", "balance/weight", "balance/preference", "balance/zero", "balance/nonfinite",
        "balance/scale", "balance/norm", "balance/effect", "balance/along", "balance/against")]  # fmt: skip
    keys += [f"balance/{kind}/{pair}" for pair in pairs for kind in ("cosine", "conflict")]
    keys += ["train/skipped_step", "train/grad_norm", "train/lr", "train/epoch", "perf/slates_per_second"]
    records_by_step = []
    for number in range(1, records + 1):
        row = {"step": 10 * number, "seconds": 1.5 * number}
        records_by_step.append(row | dict(zip(keys, rng.normal(0, 1, len(keys)).tolist(), strict=True)))
        if number % 50 == 0:
            valid = ("ctr/auc", "ctr/gauc", "ctr/ne", "ctcvr/auc", "ctcvr/gauc", "ctcvr/ne")
            records_by_step.append(
                {"step": 10 * number, "seconds": 1.5 * number} | {f"valid/{n}": rng.random() for n in valid}
            )
    return records_by_step

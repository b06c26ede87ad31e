"""`equipoise evaluate RUN`: score a split once, then measure everything from the score table.

Runs in one process, or in many under `accelerate launch -m launch.evaluate RUN`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import Progress

from configs.load import read_run_config
from configs.schema import CoverageConfig, DiversityConfig, FairnessConfig, RunConfig
from data.slate_set import SlateSet
from launch.cli import main
from modeling.run_model import load_run_model
from train.accelerate_setup import make_accelerator
from train.assemble import open_data
from train.baselines import TrainCounts
from train.metrics.score_table import ScoreTable
from train.objectives.base import Objective
from train.objectives.registry import build_objectives
from train.out_of_memory import memory_advice
from train.report import evaluate_table, print_report, write_json
from train.scoring import score_slates
from train.token_caches import find_tokens
from train.validation import spread_rows
from train.world import World


def run(folder: Path, split: str, overrides: Sequence[str]) -> None:
    """Write `scores_SPLIT.parquet` and `evaluation_SPLIT.json` into the run folder and print the report.

    Raises:
        UserError: the run is unfinished, or does not fit its data.
    """
    config = read_run_config(folder, overrides)
    tokens = find_tokens(config)
    accelerator = make_accelerator(config)
    world = World()
    objectives = build_objectives(config.objectives)
    data = open_data(config, split, objectives, tokens)
    with memory_advice(config, "scoring"):
        model = load_run_model(config, folder / "adapters").to(accelerator.device)
    model.chunk_tokens = config.evaluate.max_tokens
    rows = spread_rows(len(data.slates), config.evaluate.max_requests)
    console = Console(quiet=not accelerator.is_main_process)
    with memory_advice(config, "scoring"), Progress(console=console) as bar:
        task = bar.add_task(f"scoring {split}", total=len(rows))
        scores = score_slates(
            model,
            data.slates,
            rows,
            max_tokens=config.evaluate.max_tokens,
            max_row=config.tokens.max_row,
            device=accelerator.device,
            world=world,
            progress=lambda count: bar.advance(task, count),
        )
    if not accelerator.is_main_process:
        return
    table = score_table(config, objectives, data.slates, rows, scores)
    table.save(folder / f"scores_{split}.parquet")
    report = measure(config, table)
    write_json(report, folder / f"evaluation_{split}.json")
    print_report(report, console)
    console.print(f"scores: {folder / f'scores_{split}.parquet'}   report: {folder / f'evaluation_{split}.json'}")


def measure(config: RunConfig, table: ScoreTable) -> dict:
    """All metrics of a score table as the run is configured, beside the baselines of its train split."""
    active = config.objectives.active()
    diversity, fairness, coverage = (active.get(name) for name in ("diversity", "fairness", "coverage"))
    path = diversity.attributes if isinstance(diversity, DiversityConfig) else []
    category = coverage.attribute if isinstance(coverage, CoverageConfig) else (path[-1] if path else None)
    return evaluate_table(
        table,
        train_counts(config),
        cutoffs=config.evaluate.cutoffs,
        omegas=config.evaluate.omegas,
        field_baselines=config.evaluate.field_baselines,
        diversity_attributes=path,
        category_attribute=category,
        provider_attribute=fairness.attribute if isinstance(fairness, FairnessConfig) else None,
        seed=config.seed,
    )


def score_table(
    config: RunConfig,
    objectives: dict[str, Objective],
    slates: SlateSet,
    rows: Sequence[int],
    scores: dict[str, np.ndarray],
) -> ScoreTable:
    """Join the scores with what the slates know of users, fields and items."""
    records = slates.rows.select(list(rows))
    request = np.unique(np.array(records["request_id"]), return_inverse=True)[1]
    counts = [len(items) for items in records["item"]]

    def per_row(values: Sequence) -> np.ndarray:
        return np.repeat(np.array(values, dtype=object), counts)

    listwise = [name for name, objective in objectives.items() if objective.kind == "listwise"]
    names = {name for objective in objectives.values() for name in objective.attributes}
    fields = {name: np.concatenate(records[f"field_{name}"]).astype(np.float64) for name in config.data.fields}
    order = np.argsort(np.repeat(request, counts), kind="stable")  # parts of a cut request come together
    return ScoreTable(
        request=np.repeat(request, counts)[order],
        item=scores["item"][order],
        user=per_row(records["user_id"])[order],
        click=scores["click"][order],
        conversion=scores["conversion"][order],
        pctr=_probability(scores["ctr"])[order],
        pcvr=_probability(scores["cvr"])[order] if "cvr" in scores else None,
        delta={name: scores[name][order] for name in listwise},
        fields={name: values[order] for name, values in fields.items()},
        user_groups={name: per_row(records[f"user_{name}"])[order] for name in config.data.user_groups},
        items={name: slates.items.values(name) for name in sorted(names)},
    )


def train_counts(config: RunConfig) -> TrainCounts:
    """Clicks and conversions per item and user of the train split, for the baselines."""
    columns = ["user_id", "item", "click", "conversion"]
    files = sorted((config.data.folder / "slates").glob("train-*.parquet"))
    tables = [pq.read_table(file, columns=columns) for file in files]
    users = [table.column("user_id").to_pylist() for table in tables]
    counts = [len(items) for table in tables for items in table.column("item").to_pylist()]

    def flat(name: str) -> np.ndarray:
        return np.concatenate([chunk.flatten() for table in tables for chunk in table.column(name).chunks])

    user = np.repeat(np.array([u for part in users for u in part], dtype=object), counts)
    return TrainCounts.count(user, flat("item"), flat("click"), flat("conversion"))


def _probability(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))


if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])

"""How well a run ranks and how true its probabilities are, beside what a shop would use instead.

    python -m benchmarks.quality [--quick] [--seeds 3] [--only coupons|retail|simulated] --json FILE
    python -m benchmarks.quality --ablation heads|whole|text [--seeds 3] [--only coupons|retail] --json FILE
    python -m benchmarks.quality --decoder [--seeds 3] [--only coupons|retail] --json FILE

The Complete Journey's coupons as in configs/demo.yaml, and Online Retail as in configs/online_retail.yaml (figures
`retail_…`), all test requests of each. SYSTEM is `ours`, `text_only` (the same without prior, features and comparison;
the first seed alone), `prior`, `trees`, `linear`, `popularity`, `bought_before`; those but `trees` have paired 95 %
intervals of their difference to `trees`. A simulated shop (`simulated_…`) is measured beside its true probabilities,
see quality_simulated. An ablation measures variants with one part left out each and their differences to `ours`: of
whole trainings, or of their start, priors and heads that learned alone, which takes minutes each; of trainings on
texts alone it measures `text_apart`, whose trunk sees candidates apart, beside `text_only`. `--variants` names some of
them. `--decoder` measures SmolLM2-135M (`decoder`) in the place of `text_only`. Finished trainings lie in --work and
are not repeated. Where the best weights are those of the start, scores are made without the backbone, which
says nothing there.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.figures import figure, report, show, write
from benchmarks.quality_measure import Systems, quality_figures
from benchmarks.quality_runs import Scored, score_variants
from benchmarks.quality_simulated import measure_simulated
from benchmarks.quality_variants import HEADS, REFERENCE, SAME_DATA, TEXT, VARIANTS, WHOLE
from equipoise.common.errors import UserError
from equipoise.common.logs import show_messages
from equipoise.configs.load import as_override, build_config
from equipoise.configs.schema import RunConfig
from equipoise.evaluation.baselines import field_ranking, popularity
from equipoise.evaluation.evaluate_run import train_counts
from equipoise.evaluation.metrics.ranking import gains
from equipoise.evaluation.metrics.score_table import ScoreTable

ROOT = Path(__file__).resolve().parents[1]
RETAIL = ROOT / ".." / "shared" / "data" / "online_retail"
SETS = {"coupons": ("demo.yaml", ""), "retail": ("online_retail.yaml", "retail_")}
"""Name → config, and what figures begin with."""
SIMULATED = "simulated"
QUICK = {"train.max_steps": 20, "train.eval_every": 20}
QUICK_REQUESTS = 100
FEW = 3
"""Purchases up to which an item is bought a few times, in slices."""


def find_retail(folder: Path) -> Path | None:
    """Online Retail's file in a folder; None where there is none."""
    names = [f"online_retail.{ending}" for ending in ("parquet", "csv", "xlsx")] + ["Online Retail.xlsx"]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def settings_of(name: str, work: Path, seed: int, quick: bool, file: Path | None, variant: str = "ours") -> RunConfig:
    """The configuration of one training.

    Args:
        name: of the set.
        work: folder of prepared data and runs.
        seed: of the run.
        quick: few steps and requests.
        file: of Online Retail.
        variant: one of VARIANTS.
    """
    path = ROOT / "configs" / SETS[name][0]
    settings: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    VARIANTS[variant](settings)
    changed: dict[str, Any] = {"seed": seed, "output": str(work / name / f"{variant}-{seed}")}
    changed["data.folder"] = str(work / name / "prepared" / SAME_DATA.get(variant, variant))
    changed |= {"data.file": str(file)} if file is not None else {}
    changed |= QUICK if quick else {}
    return build_config(settings, [as_override(key, value) for key, value in changed.items()], path)


def measure_set(found: Scored, prefix: str, ablation: str | None) -> list[dict[str, Any]]:
    """The figures of a set: variants beside simple models, differences to trees; in an ablation variants, to ours."""
    reference = REFERENCE[ablation] if ablation else "ours"
    first = found.tables[reference][0]
    for tables in found.tables.values():
        assert all(np.array_equal(table.item, first.item) for table in tables), "systems score the same rows"
    config = found.config
    counts = train_counts(config)
    bought = first.fields[str(config.evaluate.bought_before)]
    item_rows = np.append(counts.item_rows, 0)[np.minimum(first.item, len(counts.item_rows))]
    systems = Systems(
        request=first.request,
        user=first.user,
        labels={"ctr": first.click, "ctcvr": first.clicked_conversion},
        gain=gains(first.click, first.conversion),
        scores={target: {} for target in ("ctr", *(["ctcvr"] if first.pcvr is not None else []))},
        reference=reference if ablation else "trees",
        slices={
            "never": ~(bought > 0),
            "few": (bought > 0) & (bought <= FEW),
            "more": bought > FEW,
            "unseen": item_rows == 0,
        },
    )
    simple = {"popularity": popularity(counts, first.item)}
    simple["bought_before"] = field_ranking(first, str(config.evaluate.bought_before))
    for target, scores in systems.scores.items():
        scores |= {name: [_probability(table, target) for table in each] for name, each in found.tables.items()}
        if not ablation:
            scores |= {system: [values] for system, values in (found.rivals[target] | simple).items()}
    figures = quality_figures(systems, prefix)
    figures += [
        figure(f"{prefix}{name}_seconds", float(np.mean(each)), "s of training") for name, each in found.seconds.items()
    ]
    return [*figures, figure(f"{prefix}requests", len(np.unique(first.request)), "test requests", rows=len(first))]


def _probability(table: ScoreTable, target: str) -> np.ndarray:
    return table.pctr if target == "ctr" else table.pctr * table.pcvr


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Quality beside what a shop would use instead.")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="one seed, few steps and requests: whether it runs at all")
    parser.add_argument("--ablation", choices=["heads", "whole", "text"], help="without one part each")
    parser.add_argument("--variants", help="of an ablation, such as no_text,with_ids; all by default")
    parser.add_argument("--decoder", action="store_true", help="SmolLM2-135M beside the encoder (docs/decoder.md)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each system")
    parser.add_argument(
        "--text-only", action=argparse.BooleanOptionalAction, default=True, help="a training on texts alone"
    )
    parser.add_argument("--requests", type=int, help="test requests that are scored, spread over all; all by default")
    parser.add_argument("--only", choices=[*SETS, SIMULATED], help="one of the sets")
    parser.add_argument("--retail", type=Path, default=RETAIL, help="folder with Online Retail's file")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"), help="prepared data and runs")
    asked = parser.parse_args()
    if asked.decoder and asked.ablation:
        parser.error("--decoder and --ablation are two measurements: ask for one of them")
    known = {"heads": HEADS, "whole": WHOLE, "text": TEXT}.get(asked.ablation, [])
    asked.variants = asked.variants.split(",") if asked.variants else known
    for name in asked.variants:
        if name not in known:
            parser.error(
                f"--variants {name}: name some of {', '.join(known)}" if known else "--variants needs --ablation"
            )
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    show_messages()
    asked.seeds = 1 if asked.quick else asked.seeds
    asked.work = asked.work / "quick" if asked.quick else asked.work
    figures: list[dict[str, Any]] = []
    try:
        for name in [asked.only] if asked.only else [*SETS, *([] if asked.ablation or asked.decoder else [SIMULATED])]:
            figures += figures_of(name, asked)
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    circumstances = {
        key: getattr(asked, key) for key in ("quick", "ablation", "variants", "decoder", "seeds", "requests", "only")
    }
    write(asked.json, report("quality", figures, **circumstances))
    show("Quality beside what a shop would use instead", figures)


def figures_of(name: str, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """The figures of one set, as the command line asks."""
    if name == SIMULATED:
        return measure_simulated(ROOT / "configs" / SETS["coupons"][0], asked.work / name, asked.seeds, asked.quick)
    file = find_retail(asked.retail) if name == "retail" else None
    if name == "retail" and file is None:
        print(f"{asked.retail} holds no Online Retail (online_retail.parquet, .csv or .xlsx): left out")
        return []
    if asked.ablation:
        variants = dict.fromkeys([REFERENCE[asked.ablation], *asked.variants], asked.seeds)
    else:
        variants = {"ours": asked.seeds}
        variants |= {"decoder": asked.seeds} if asked.decoder else {"text_only": 1} if asked.text_only else {}

    def settings(variant: str, seed: int) -> RunConfig:
        return settings_of(name, asked.work, seed, asked.quick, file, variant)

    requests = QUICK_REQUESTS if asked.quick else asked.requests
    found = score_variants(settings, variants, requests, heads=asked.ablation == "heads")
    return measure_set(found, SETS[name][1], asked.ablation)


if __name__ == "__main__":
    main()

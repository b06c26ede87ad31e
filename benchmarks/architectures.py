"""Which architectures can be trained and served: every config of a folder, from a tiny random base to a checked export.

    python -m benchmarks.architectures [--configs FOLDER] [--only NAME,NAME] [--scope all|candidates] --json FILE

For each config a tiny base is written, trained for two steps, exported and checked, in a process of its own with a
time limit. `pass`: the export's own check passed, and scores do not depend on how prompts are batched. `refused`: one
sentence before the first step. The other verdicts are faults: `traceback` (before the first step), `late` (after it),
`silent`. Without --configs it is the sample in benchmarks/architecture_shapes.py.
"""

import argparse
import json
import logging
import multiprocessing
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.architecture_shapes import SHAPES
from benchmarks.architecture_work import make_base, run_config, write_work
from benchmarks.figures import figure, report, write
from equipoise.common.errors import UserError
from equipoise.configs.load import read_run_config
from equipoise.configs.schema import RunConfig
from equipoise.data.batches import Slate, build_batch
from equipoise.data.slate_set import SlateSet
from equipoise.export import write as export_write
from equipoise.export.golden_check import main as check_golden
from equipoise.modeling.run_model import load_run_model
from equipoise.train.job import train
from equipoise.train.token_caches import find_tokens

VERDICTS = ("pass", "refused", "traceback", "late", "silent")
TOLERANCE = 1e-3
"""Largest difference of a logit between batchings, absolute below 1 and relative above."""
TEST_SLATES = 12


@dataclass(frozen=True)
class Verdict:
    """What became of one config, and why."""

    name: str
    verdict: str
    reason: str = ""


def alone_of(slate: Slate, number: int) -> Slate:
    """One candidate of a slate that heads read nothing beside of."""
    one = slice(number, number + 1)
    columns = {name: getattr(slate, name)[one] for name in ("candidates", "item", "click", "conversion")}
    return replace(slate, **columns)


def batching_difference(config: RunConfig) -> float:
    """Largest difference of a logit between all candidates of some test slates in one batch and each alone."""
    model = load_run_model(config, config.output / "adapters")
    slates = SlateSet(config.data.folder, "test", find_tokens(config))
    chosen = [slates.slate(row) for row in range(min(TEST_SLATES, len(slates)))]
    worst = 0.0
    with torch.inference_mode():
        together = model.score(build_batch(chosen, config.tokens.max_row, 0).model_inputs())
        alone = [
            model.score(build_batch([alone_of(slate, number)], config.tokens.max_row, 0).model_inputs())
            for slate in chosen
            for number in range(len(slate.candidates))
        ]
    for name in model.pointwise:
        one, other = together[name], torch.cat([outputs[name] for outputs in alone])
        distance = ((one - other).abs() / other.abs().clamp(min=1)).nan_to_num(nan=torch.inf)
        worst = max(worst, distance.max().item())
    return worst


def _check_here(folder: Path) -> dict[str, float]:
    """The export's check in this process, whose libraries are loaded already."""
    sys.path.insert(0, str(folder))  # check_formats.py lies beside it
    if check_golden(folder) != 0:
        raise UserError("the export is refused: golden check FAILED")
    serving = json.loads((folder / "serving.json").read_text("utf-8"))
    return dict.fromkeys(serving["objectives"], 0.0)


def judge(name: str, config: RunConfig) -> Verdict:
    """Train, export and check one config. Whatever goes wrong is a verdict."""
    steps: list[int] = []
    handle = register_optimizer_step_post_hook(lambda *_: steps.append(1))
    export_write.run_check = _check_here
    try:
        train(config, overwrite=True)
        export_write.export_run(config.output, config.output.parent / "export", golden=4, overwrite=True)
        difference = batching_difference(read_run_config(config.output, []))
    except (UserError, SystemExit) as error:
        return Verdict(name, "late" if steps else "refused", str(error))
    except Exception as error:  # what no sentence was written for
        logging.getLogger(__name__).debug(traceback.format_exc())
        frame = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"
        return Verdict(name, "late" if steps else "traceback", " ".join(reason.split())[:300])
    finally:
        handle.remove()
    if not difference <= TOLERANCE:
        return Verdict(name, "silent", f"logits differ by {difference:.1e} between batchings")
    return Verdict(name, "pass")


def _child(name: str, shape: Mapping[str, Any], work: Path, scope: str, pipe: Any) -> None:
    folder = work / "bases" / name
    folder.mkdir(parents=True)
    with (folder / "log.txt").open("w") as log:
        sys.stdout = sys.stderr = log
        logging.disable(logging.WARNING)
        made = make_base(shape, folder / "base")
        verdict = judge(name, run_config(work, folder, made, scope))
    pipe.send(verdict)


def judge_apart(name: str, shape: Mapping[str, Any], work: Path, scope: str, timeout: float) -> Verdict:
    """`judge` in a forked process, which is ended after `timeout` seconds."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(name, shape, work, scope, theirs))
    process.start()
    theirs.close()
    try:
        if ours.poll(timeout):
            return ours.recv()
        return Verdict(name, "late", f"not done after {timeout:.0f} s")
    except EOFError:
        return Verdict(name, "traceback", f"the process died with exit code {process.exitcode}")
    finally:
        process.kill()
        process.join()


def read_shapes(folder: Path | None, only: str | None) -> dict[str, Mapping[str, Any]]:
    """Configs by name, from a folder of `NAME.json` or the sample.

    Raises:
        UserError: the folder or a named config is not there.
    """
    shapes: dict[str, Mapping[str, Any]] = dict(SHAPES)
    if folder is not None:
        shapes = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}
    if not shapes:
        raise UserError(f"--configs {folder}: holds no NAME.json")
    if only is None:
        return shapes
    unknown = [name for name in only.split(",") if name not in shapes]
    if unknown:
        raise UserError(f"--only {unknown[0]}: choose from {', '.join(shapes)}")
    return {name: shapes[name] for name in only.split(",")}


def show_verdicts(verdicts: list[Verdict]) -> None:
    """A table of verdicts and their counts."""
    table = Table("config", "verdict", "reason")
    for each in verdicts:
        table.add_row(each.name, each.verdict, each.reason)
    console = Console()
    console.print(table)
    counts = Counter(each.verdict for each in verdicts)
    console.print(", ".join(f"{name} {counts[name]}" for name in VERDICTS))


def main(arguments: list[str] | None = None) -> int:
    """Measure, write the file, and return 1 where a verdict is a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=Path, help="folder of NAME.json, each a config of transformers")
    parser.add_argument("--only", help="names, with commas between them")
    parser.add_argument("--scope", choices=("all", "candidates"), default="candidates", help="lora.scope")
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds per config")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    verdicts = []
    shapes = read_shapes(options.configs, options.only)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_work(work)
        for name, shape in shapes.items():
            verdicts.append(judge_apart(name, shape, work, options.scope, options.timeout))
            print(f"{name}: {verdicts[-1].verdict} {verdicts[-1].reason}", flush=True)
    counts = Counter(each.verdict for each in verdicts)
    figures = [figure(verdict, counts[verdict], "configs", scope=options.scope) for verdict in VERDICTS]
    whole = report("architectures", figures) | {"configs": [asdict(each) for each in verdicts]}
    write(options.json, whole)
    show_verdicts(verdicts)
    return int(any(counts[verdict] for verdict in VERDICTS[2:]))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(str(error))

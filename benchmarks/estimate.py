"""How far `equipoise estimate` is off: its bytes against those that training steps really take, case by case.

    python -m benchmarks.estimate [--quick] [--json FILE]

Each case is measured in a process of its own, as in benchmarks.balancing_memory, with a malloc that gives back what is
freed (MALLOC_MMAP_THRESHOLD_): by default glibc keeps it, and resident memory is several times what is alive, which is
no property of the step and does not happen on a GPU. `estimate_error` is the largest
relative error of all cases, of a step's peak above the model and of the model and the peak together.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.balancing_memory import peak_above, resident, settle
from benchmarks.figures import figure, report, show, write
from benchmarks.workload import LORA, Sizes, backbone_config, build_workload, tower_names
from equipoise.modeling.model import ModelSpec
from equipoise.train.memory.estimate import FULL, StepPlan, measure_sizes, step_peak
from equipoise.train.memory.step_shape import StepShape


@dataclass(frozen=True)
class Case:
    """One model and one size of batch; the slates are of 24 candidates of 16 tokens behind 64 of prefix."""

    backbone: str
    checkpointing: bool
    slates: int
    objectives: int = 3

    @property
    def name(self) -> str:
        """Of the figures."""
        return f"{self.backbone}_{'checkpointed' if self.checkpointing else 'kept'}_{self.slates}"

    @property
    def sizes(self) -> Sizes:
        """Of the batch."""
        return Sizes(self.slates, 24, 64, 16)


QUICK = [Case("minilm", False, 4), Case("minilm", True, 8)]
CASES = [Case("minilm", c, s) for c in (False, True) for s in (4, 8)]
CASES += [Case("llama100m", c, s) for c in (False, True) for s in (2, 5)]
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""The environment in which glibc maps and unmaps every tensor of 64 KiB or more."""


def estimated(case: Case) -> tuple[int, int]:
    """Bytes of the model, and of the peak of steps above it (AdamW's moments among them)."""
    sizes = case.sizes
    row = sizes.prefix + sizes.candidates * sizes.length
    with tempfile.TemporaryDirectory() as folder:
        base = backbone_config(case.backbone, folder, checkpointing=case.checkpointing)
        plan = StepPlan(ModelSpec(base, LORA, tower_names(case.objectives)))
        model = measure_sizes(plan)
        peak = step_peak(plan, StepShape(sizes.slates, sizes.candidates, sizes.prefix, sizes.length, row))
    return model.base_bytes + FULL * model.trained, peak + 2 * FULL * model.trained


def resident_bytes(case: Case) -> tuple[int, int]:
    """The same as `estimated`, measured in this process, which must not have trained before."""
    peak_above(build_workload("tiny", 2, Sizes(1, 2, 8, 4), device="cpu"), "boundary")  # loads what steps need
    settle()
    before = resident("VmRSS")
    workload = build_workload(
        case.backbone, case.objectives, case.sizes, device="cpu", checkpointing=case.checkpointing
    )
    for parameter in workload.model.parameters():
        parameter.sum()  # weights mapped from a file are resident only when they have been read
    settle()
    model = resident("VmRSS") - before
    return model, peak_above(workload, "boundary")


def measured(case: Case) -> tuple[int, int]:
    """`resident_bytes` of a fresh process."""
    command = [sys.executable, "-m", "benchmarks.estimate", "--case", json.dumps(asdict(case))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | GIVE_BACK)
    if done.returncode:
        raise RuntimeError(f"measuring {case.name} failed:\n{done.stderr[-2000:]}")
    model, peak = json.loads(done.stdout.splitlines()[-1])
    return model, peak


def estimate_figures(quick: bool) -> list[dict[str, Any]]:
    """Estimated and measured MiB of each case, their relative errors, and the largest of these."""
    figures, errors = [], []
    for case in QUICK if quick else CASES:
        (model, peak), (real_model, real_peak) = estimated(case), measured(case)
        where = asdict(case)
        of_peak, of_total = peak / real_peak - 1, (model + peak) / (real_model + real_peak) - 1
        errors += [abs(of_peak), abs(of_total)]
        figures += [
            figure(f"estimate_peak_mib_{case.name}", peak / 2**20, "MiB above the model, estimated", **where),
            figure(f"measured_peak_mib_{case.name}", real_peak / 2**20, "MiB above the model, measured", **where),
            figure(f"estimate_peak_error_{case.name}", of_peak, "estimated / measured − 1", **where),
            figure(f"estimate_total_error_{case.name}", of_total, "estimated / measured − 1", **where),
        ]
    return [*figures, figure("estimate_error", max(errors), "largest |estimated / measured − 1|")]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimate", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="MiniLM alone")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(resident_bytes(Case(**json.loads(options.case)))))
        return
    figures = estimate_figures(options.quick)
    show("estimate against measurement", figures)
    if options.json:
        write(options.json, report("estimate", figures, quick=options.quick))


if __name__ == "__main__":
    main()

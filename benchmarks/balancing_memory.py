"""Peak memory of training steps, each variant in a process of its own.

    python -m benchmarks.balancing_memory '{"backbone": "minilm", "objectives": 4, "name": "boundary", "sizes": [...]}'

Counted is what two steps take above what the loaded model holds: resident memory on a CPU (its high-water mark is reset
after one forward and backward of a single short slate, which loads the libraries' kernels), allocated memory on a GPU.
"""

import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.balancing_steps import PEERS, variant
from benchmarks.figures import figure
from benchmarks.workload import (
    STOCK,
    RememberingStep,
    Sizes,
    Way,
    Workload,
    build_workload,
    random_batch,
    separate_prompts,
)

STEPS = 2
SEPARATE = "_without_slates"


def resident(field: str) -> int:
    """`VmRSS` or `VmHWM` of this process, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def settle() -> None:
    """Give back what is free, so that the baseline holds the model and nothing else."""
    gc.collect()
    if sys.platform.startswith("linux"):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def peak_above_model(backbone: str, objectives: int, name: str, sizes: Sizes, way: Way = STOCK) -> int:
    """Bytes that STEPS steps of a variant take at most, above those before the first.

    A name that ends in SEPARATE trains on the same candidates as separate prompts.
    """
    if name.endswith(SEPARATE):
        name, sizes = name.removesuffix(SEPARATE), separate_prompts(sizes)
    return peak_above(build_workload(backbone, objectives, sizes, way=way), name)


def peak_above(workload: Workload, name: str) -> int:
    """Bytes that STEPS steps of a variant take at most, above those that are held now."""
    full, labels = workload.batch, workload.labels
    workload.batch = random_batch(Sizes(1, 2, 8, 4), workload.model.backbone.config.vocab_size, 1).to(workload.device)
    workload.labels = labels[:, :2]
    torch.stack(workload.losses()).sum().backward()
    workload.optimizer.zero_grad()
    workload.batch, workload.labels, workload.context = full, labels, RememberingStep()
    step = variant(workload, name)
    settle()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM := VmRSS
        before = resident("VmRSS")
    for _ in range(STEPS):
        step()
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() - before
    return resident("VmHWM") - before


def measure(backbone: str, objectives: int, name: str, sizes: Sizes, way: Way = STOCK) -> int:
    """`peak_above_model` in a fresh process."""
    task = {"backbone": backbone, "objectives": objectives, "name": name, "sizes": list(vars(sizes).values())}
    task["way"] = vars(way)
    command = [sys.executable, "-m", "benchmarks.balancing_memory", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {name} failed:\n{done.stderr[-2000:]}")
    return int(done.stdout.splitlines()[-1])


def memory_figures(
    backbone: str, objectives: int, names: Sequence[str], sizes: Sizes, separate: bool = False
) -> list[dict[str, Any]]:
    """Peaks of the variants in `names` (with `boundary` among them) and our peak over each peer's.

    `separate`: also over that of LibMTL on separate prompts.
    """
    if separate and "libmtl" in names:
        names = [*names, f"libmtl{SEPARATE}"]
    peaks = {name: measure(backbone, objectives, name, sizes) for name in names}
    where: dict[str, Any] = {"backbone": backbone, "objectives": objectives}
    end = f"{backbone}_K{objectives}"
    entries = [
        figure(f"peak_mib_{name}_{end}", peak / 2**20, "MiB above the model", **where) for name, peak in peaks.items()
    ]
    for peer in (*PEERS, f"libmtl{SEPARATE}"):
        if peer in peaks:
            share = peaks["boundary"] / peaks[peer]
            entries.append(figure(f"memory_ratio_{peer}_{end}", share, "our peak / peer's peak", **where))
    return entries


def main() -> None:
    """The command: prints bytes."""
    task = json.loads(sys.argv[1])
    sizes, way = Sizes(*task["sizes"]), Way(**task.get("way", {}))
    print(peak_above_model(task["backbone"], task["objectives"], task["name"], sizes, way))


if __name__ == "__main__":
    main()

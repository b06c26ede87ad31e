"""The form that all benchmarks share: who measured, with what, and a list of `{name, value, unit}`.

A figure may carry further keys (method, backbone, objectives, …) that say under which circumstances it holds. Files are
written whole or not at all; the terminal gets the same figures as a table.
"""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from equipoise.common.atomic import atomic_write
from equipoise.train.environment import versions

PACKAGES = ("torch", "transformers", "peft", "accelerate", "numpy", "scipy", "torchjd", "LibMTL", "matplotlib")


def figure(name: str, value: float, unit: str, **circumstances: Any) -> dict[str, Any]:
    """One figure. Whatever is not finite becomes null, which JSON can hold."""
    number = float(value)
    return {"name": name, "value": number if np.isfinite(number) else None, "unit": unit, **circumstances}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """Processor, cores (all, and those torch uses), memory in GiB, and the GPU or null."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load": round(os.getloadavg()[0], 1),
        "system": platform.platform(),
    }


def commit() -> str | None:
    """The commit of this tree, with `+` behind it where files are changed; None outside of git."""
    root = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def report(benchmark: str, figures: Sequence[Mapping[str, Any]], **settings: Any) -> dict[str, Any]:
    """The whole record of one run.

    Args:
        benchmark: its name.
        figures: what `figure` gave; names must differ.
        settings: sizes and switches of the run.
    """
    names = [entry["name"] for entry in figures]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"figures with the same name: {', '.join(twice)}")
    return {
        "benchmark": benchmark,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(PACKAGES),
        "settings": settings,
        "figures": list(figures),
    }


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Write the record as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def show(title: str, figures: Sequence[Mapping[str, Any]]) -> None:
    """Print figures as a table; what else a figure carries stands in the last column."""
    table = Table("figure", "value", "unit", "circumstances", title=title)
    for entry in figures:
        value = "–" if entry["value"] is None else f"{entry['value']:.4g}"
        rest = ", ".join(f"{key} {text}" for key, text in entry.items() if key not in ("name", "value", "unit"))
        table.add_row(entry["name"], value, entry["unit"], rest)
    Console().print(table)


class Timed(float):
    """Seconds that a function took itself, for `take_turns`: where not all that the call does is to be counted."""


def take_turns(functions: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1) -> dict[str, np.ndarray]:
    """Seconds of each call, by name, float64 (rounds,).

    The functions take turns, and each round begins with another one, so that whatever else the machine does hits all
    of them alike. A function that returns `Timed` is believed; the others are timed from call to return.
    """
    names = list(functions)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warmup, rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            wait_for_device()
            start = time.perf_counter()
            result = functions[name]()
            wait_for_device()
            if turn >= 0:
                took = result if isinstance(result, Timed) else time.perf_counter() - start
                seconds[name].append(float(took))
    return {name: np.array(values) for name, values in seconds.items()}


def ratio(seconds: Mapping[str, np.ndarray], numerator: str, denominator: str) -> dict[str, Any]:
    """The median, over rounds, of the ratio of the two times of the same round.

    Returns:
        `value`, `rounds`, `middle_half` of these ratios and `of_fastest`, the ratio of the two shortest times, which a
        busy machine disturbs least; ready for `figure`.
    """
    ratios = seconds[numerator] / seconds[denominator]
    half = [round(float(q), 4) for q in np.quantile(ratios, [0.25, 0.75])]
    fastest = round(float(seconds[numerator].min() / seconds[denominator].min()), 4)
    return {"value": statistics.median(ratios), "rounds": len(ratios), "middle_half": half, "of_fastest": fastest}


def wait_for_device() -> None:
    """Let the GPU, where there is one, finish what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()

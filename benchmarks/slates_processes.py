"""A global step over several processes of one thread each, DDP over gloo, each with the same work (weak scaling).

    python -m benchmarks.slates_processes '{"who": "ours", "backbone": "minilm", "sizes": [1, 5, 64, 16], "rounds": 5}'

is one of the processes; `process_seconds` starts them all. Ideal scaling keeps a step's time where it was: exponent 0.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import replace

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from transformers.utils import logging as transformers_logging

from benchmarks.peer_prompts import SeparatePrompts
from benchmarks.slates_ours import FAST, OBJECTIVES, training_step
from benchmarks.workload import Sizes, build_workload

LONGEST = 1800
"""Seconds after which a job is given up."""


def _ours(backbone: str, sizes: Sizes, rounds: int) -> list[float]:
    """Seconds of each step of our model under DDP, the first one left out."""
    dist.init_process_group("gloo")
    try:
        workload = build_workload(backbone, OBJECTIVES, sizes, device="cpu", way=FAST)
        step = training_step(replace(workload, engine=DistributedDataParallel(workload.model, broadcast_buffers=False)))
        seconds = []
        for _ in range(rounds + 1):
            dist.barrier()
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        return seconds[1:]
    finally:
        dist.destroy_process_group()


def _separate_prompts(backbone: str, sizes: Sizes, rounds: int) -> list[float]:
    """The same of the usual recipe, which finds the other processes in the environment."""
    tune = SeparatePrompts(backbone, sizes, steps=rounds + 1, copies=int(os.environ["WORLD_SIZE"]))
    tune.step()
    return tune.clock.seconds[1:]


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def process_seconds(who: str, backbone: str, sizes: Sizes, processes: int, rounds: int) -> float:
    """Median seconds of a global step of `who` (`ours` or `separate_prompts`), each process with a batch of `sizes`.

    Raises:
        RuntimeError: a process failed; with the end of what it said.
    """
    task = {"who": who, "backbone": backbone, "sizes": list(vars(sizes).values()), "rounds": rounds}
    command = [sys.executable, "-m", "benchmarks.slates_processes", json.dumps(task)]
    shared = {**os.environ, "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    shared |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    started = [
        subprocess.Popen(
            command,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        outputs = [process.communicate(timeout=LONGEST)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    for process, text in zip(started, outputs, strict=True):
        if process.returncode:
            raise RuntimeError(f"timing {processes} processes of {who} failed:\n{text[-2000:]}")
    return statistics.median(json.loads(outputs[0].splitlines()[-1]))


def main() -> None:
    """The command: prints the seconds of every step."""
    task = json.loads(sys.argv[1])
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(1)
    run = _ours if task["who"] == "ours" else _separate_prompts
    print(json.dumps(run(task["backbone"], Sizes(*task["sizes"]), task["rounds"])))


if __name__ == "__main__":
    main()

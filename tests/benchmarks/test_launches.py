"""Launches and waits of the real loop do not rise unseen; the counter counts what it says."""

from collections.abc import Iterator

import pytest
import torch
from accelerate.state import AcceleratorState

from benchmarks import launches
from benchmarks.launches_count import LaunchCounter, counting
from benchmarks.launches_roofline import BANDWIDTH, OF_BANDWIDTH, Roofline, Sums

MOST = {1: 1000, 4: 1200, 8: 1280}
"""Launches of a micro-step at the depth of Llama 3.2 1B, by objectives: raise a bound only for a reason."""
MOST_OF_ENCODER = 1000
"""The same of BERT base with four objectives."""
MOST_OF_REQUEST = 340
"""Launches of a request of 20 candidates in a server, at the depth of Llama 3.2 1B with four objectives."""


@pytest.fixture(autouse=True)
def _other_precision_afterwards() -> Iterator[None]:
    """Accelerate keeps one precision for the process: what is counted in bf16 must not decide about later tests."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("objectives", MOST)
def test_a_step_starts_few_kernels_and_hardly_waits(objectives: int) -> None:
    counter = launches.count_step(launches.build_loop(launches.DEPTHS["1b"], objectives))
    assert 200 < counter.total <= MOST[objectives]
    assert sum(counter.waits.values()) <= 2, counter.waits


def test_an_encoder_s_step_starts_few_kernels_and_hardly_waits() -> None:
    counter = launches.count_step(launches.build_loop(launches.ENCODER, 4, arch="bert"))
    assert 200 < counter.total <= MOST_OF_ENCODER
    assert sum(counter.waits.values()) <= 2, counter.waits


def test_a_request_starts_few_kernels_and_does_not_wait() -> None:
    counter = launches.count_request(launches.DEPTHS["1b"], "fused")
    assert 100 < counter.total <= MOST_OF_REQUEST and not counter.waits


def test_the_roofline_knows_what_moves_and_what_multiplies() -> None:
    x, w = torch.ones(64, 32), torch.ones(32, 4096)
    with Roofline() as roofline:
        torch.ops.prim.device.default(x)  # as fake tensors are asked
        x.view(32, 64).t()
    assert roofline.sums == Sums()
    with Roofline() as roofline:
        x @ w
    moved = 4 * (x.numel() + w.numel() + 64 * 4096) / (OF_BANDWIDTH * BANDWIDTH)
    assert roofline.sums == Sums(2 * 64 * 32 * 4096, moved, 1)


def test_the_counter_knows_views_launches_and_waits() -> None:
    counter, x, host = LaunchCounter(), torch.arange(6.0), torch.ones(3)
    counter.place(x)
    with counting(counter):
        y = x.view(2, 3) * 2
        host.add(1).tolist()  # on the host: neither a launch nor a wait
        y.sum().item()
        y[y > 2]
        y.cpu()
    assert {name: number for part in counter.launches.values() for name, number in part.items()} == {
        "mul": 1, "sum": 1, "gt": 1, "index": 1,
    }  # fmt: skip
    assert counter.views >= 1 and sorted(counter.waits) == [
        "other: _local_scalar_dense", "other: cpu", "other: index",
    ]  # fmt: skip

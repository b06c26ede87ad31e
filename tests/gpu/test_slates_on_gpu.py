"""A training step of slates on a GPU against the same step on the CPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.slates_agreement import differences
from benchmarks.workload import Sizes, Way, Workload, build_workload, combined_gradient
from equipoise.data.batches import Slate, SlateBatch, build_batch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def ragged() -> SlateBatch:
    """Slates of unequal prefixes and candidates."""
    rng, slates = np.random.default_rng(4), []
    for row, (prefix, lengths) in enumerate([(9, [3, 7, 2]), (40, [5, 5]), (17, [1, 12, 4, 6])]):
        none = np.zeros(len(lengths), dtype=np.int64)
        candidates = [rng.integers(5, 300, length).tolist() for length in lengths]
        slates.append(Slate(row, rng.integers(5, 300, prefix).tolist(), candidates, none, none, none))
    return build_batch(slates, 96, 0)


def step(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Losses and the gradients of all that is trained, float64."""
    losses = workload.losses()
    torch.stack(losses).sum().backward()
    gradient = combined_gradient(workload.trainable())
    return np.array([loss.item() for loss in losses]), gradient.numpy()


@pytest.mark.parametrize("attention", ["split", "sdpa"])
@pytest.mark.parametrize("scope", ["all", "candidates"])
def test_losses_and_gradients_are_those_of_the_cpu(attention: str, scope: str) -> None:
    way, batch = Way(attention=attention, scope=scope), ragged()
    labels = torch.rand(3, batch.click.numel(), generator=torch.Generator().manual_seed(1)).lt(0.3).float()
    found = []
    for device in ("cpu", "cuda"):
        workload = build_workload("tiny", 3, Sizes(1, 2, 8, 4), device=device, way=way)
        workload = replace(workload, batch=batch.to(torch.device(device)), labels=labels.to(device))
        found.append(step(workload))
    (losses, gradient), (losses_gpu, gradient_gpu) = found
    np.testing.assert_allclose(losses_gpu, losses, rtol=1e-4)
    assert np.linalg.norm(gradient_gpu - gradient) <= 1e-3 * np.linalg.norm(gradient)


def test_packed_slates_are_separate_prompts_on_a_gpu() -> None:
    (logits, _), (gradients, scale) = differences("tiny", Sizes(2, 5, 19, 7))
    assert logits < 1e-4 and gradients < 1e-4 * max(1.0, scale)

"""The comparison with the history, and the prior, against brute force; both begin where the issue's invariant says."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from equipoise.configs.schema import BackboneConfig, LoraConfig
from equipoise.data.batches import Slate, build_batch
from equipoise.data.things import SlateThings, join_things
from equipoise.modeling.comparison import SHARPNESS, Comparison, ComparisonShape
from equipoise.modeling.model import ModelSpec, SlateModel, build_model

VECTORS = torch.nn.functional.normalize(torch.randn(9, 12, generator=torch.Generator().manual_seed(1)), dim=-1).numpy()


def things(history: list[int], candidate: list[int]) -> SlateThings:
    return SlateThings(np.array(history, np.int64), np.array(candidate, np.int64), VECTORS)


SLATES = [things([3, 1, 0, 7, 8, 2], [1, 5, -1]), things([], [2, 2]), things([4], [4, 6, 0, 1])]
SLOTS = torch.tensor([[0, 1, 2, -1], [3, 4, -1, -1], [5, 6, 7, 8]])


def brute_force(slate: SlateThings, candidate: int) -> list[float]:
    """Soft maximum, mean, log size, means of the best 1, 3, 5; missing ones of the best count −1."""
    if candidate < 0:
        return [0.0] * 6
    products = [float(VECTORS[candidate] @ VECTORS[h]) for h in slate.history if h != candidate]
    if not products:
        return [0.0] * 6
    best = sorted(products, reverse=True) + [-1.0] * 5
    soft = np.log(sum(np.exp(SHARPNESS * x) for x in products)) / SHARPNESS
    return [soft, np.mean(products), np.log1p(len(products)), best[0], np.mean(best[:3]), np.mean(best[:5])]


def test_pooled_products_equal_brute_force() -> None:
    comparison = Comparison(ComparisonShape(12, 12), 0)
    comparison.start(torch.eye(12))
    pooled = comparison.pool(join_things(SLATES), SLOTS)
    expected = [brute_force(slate, int(c)) for slate in SLATES for c in slate.candidate]
    torch.testing.assert_close(pooled, torch.tensor(expected).float(), atol=1e-5, rtol=1e-5)


def test_a_candidate_does_not_depend_on_other_slates() -> None:
    comparison = Comparison(ComparisonShape(12, 8), 0)
    torch.nn.init.normal_(comparison.out.weight)
    torch.nn.init.normal_(comparison.straight.weight)
    nothing = torch.zeros(9, 0)
    together = comparison(join_things(SLATES), SLOTS, nothing)
    alone = [
        comparison(join_things([slate]), torch.arange(len(slate.candidate))[None], nothing[: len(slate.candidate)])
        for slate in SLATES
    ]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.fixture
def build(tiny_backbone: Callable[..., BackboneConfig]) -> Callable[..., SlateModel]:
    def make(**options: object) -> SlateModel:
        spec = ModelSpec(
            tiny_backbone("llama"), LoraConfig(rank=4, alpha=8), {"ctr": 1, "cvr": 1}, ("diversity",), **options
        )  # type: ignore[arg-type]
        return build_model(spec).eval()

    return make


def with_priors(make_slate: Callable[..., Slate]) -> list[Slate]:
    slates = []
    for seed, sizes in enumerate(([3, 2, 4], [2, 5])):
        slate = make_slate(seed, sizes, row=seed)
        prior = np.random.default_rng(seed).normal(size=(len(sizes), 2)).astype(np.float32)
        slates.append(Slate(**{**vars(slate), "prior": prior, "things": SLATES[0] if len(sizes) == 3 else SLATES[1]}))
    return slates


def test_a_model_with_priors_begins_as_them(build: Callable, make_slate: Callable[..., Slate]) -> None:
    model = build(priors=("ctr", "cvr"), comparison=ComparisonShape(12, 8))
    batch = build_batch(with_priors(make_slate), 96, 0)
    outputs = model.score(batch.model_inputs())
    for column, name in enumerate(("ctr", "cvr")):
        torch.testing.assert_close(outputs[name], batch.prior[:, column], atol=1e-6, rtol=0)  # type: ignore[index]


def test_gradients_reach_prior_comparison_and_tower(build: Callable, make_slate: Callable[..., Slate]) -> None:
    model = build(priors=("ctr",), comparison=ComparisonShape(12, 8))
    slates = [Slate(**{**vars(slate), "prior": slate.prior[:, :1]}) for slate in with_priors(make_slate)]  # type: ignore[index]
    batch = build_batch(slates, 96, 0)
    model.score(batch.model_inputs())["ctr"].square().sum().backward()
    head = model.heads["ctr"]
    for parameter in (head.moved, head.score.weight, head.comparison.out.weight, head.comparison.straight.weight):
        assert parameter.grad is not None and parameter.grad.abs().max() > 0


def test_what_is_left_out_is_refused(build: Callable, make_slate: Callable[..., Slate]) -> None:
    slates = with_priors(make_slate)
    inputs = build_batch(slates, 96, 0).model_inputs()
    with pytest.raises(ValueError, match="the model reads prior none"):
        build().score(inputs)
    with pytest.raises(ValueError, match="does not compare"):
        build(priors=("ctr", "cvr")).score(inputs)
    with pytest.raises(ValueError, match="the model reads prior ctr, cvr"):
        build(priors=("ctr", "cvr"), comparison=ComparisonShape(12, 8)).score(
            {name: value for name, value in inputs.items() if name != "prior"}
        )
    with pytest.raises(ValueError, match="some slates of a batch have things"):
        build_batch([slates[0], make_slate(5, [2, 2])], 96, 0)

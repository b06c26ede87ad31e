"""The levels against K separate backward passes and an explicit combination, in float64."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from equipoise.common.errors import UserError
from equipoise.configs.balancing import BalancingConfig
from equipoise.data.batches import Slate, build_batch
from equipoise.modeling.boundary import BoundaryGradients, StepContext
from equipoise.modeling.model import SlateModel
from equipoise.train.balancing.balancer import Balancer
from equipoise.train.balancing.gram import GramReader
from equipoise.train.world import World

LEVELS: dict[str, Any] = {
    "layers": {"layers": 1},
    "parameters": "parameters",
    "more layers than there are": {"layers": 9},
}


@pytest.fixture
def make_double(
    make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate]
) -> Callable[..., tuple[SlateModel, Callable[..., list[torch.Tensor]]]]:
    """A float64 model and what gives its three losses, which differ in scale by powers of ten."""

    def build(**backbone: Any) -> tuple[SlateModel, Callable[[], list[torch.Tensor]]]:
        model = make_model("bert", **backbone).double()  # Llama computes its norms in float32 whatever comes
        model.train(bool(backbone.get("checkpointing")))
        inputs = build_batch([make_slate(3, [3, 5, 4, 2]), make_slate(4, [2, 6, 3], row=1)], 96, 0).model_inputs()
        scales = {"ctr": 10.0, "cvr": 1.0, "diversity": 0.1}

        def losses(step: StepContext | None = None) -> list[torch.Tensor]:
            outputs = model.score(inputs, step)
            return [scales[name] * (outputs[name] + 1).square().mean() for name in model.objectives]

        return model, losses

    return build


def shared(model: SlateModel) -> list[torch.nn.Parameter]:
    return [p for name, p in model.named_parameters() if ".shared." in name]


def separate_gradients(model: SlateModel, losses: Callable[..., list[torch.Tensor]]) -> list[list[torch.Tensor]]:
    """One forward and one backward for every objective, without the boundary's node."""
    return [list(torch.autograd.grad(losses()[k], shared(model))) for k in range(len(model.objectives))]


def balanced_gradients(
    model: SlateModel, losses: Callable[..., list[torch.Tensor]], **settings: Any
) -> tuple[list[torch.Tensor], Balancer]:
    config = BalancingConfig(**settings)
    balancer = Balancer(model.objectives, [1.0, 2.0, 0.5], config, World(), 1.0, trunk=model.trunk_parameters())
    model.zero_grad()
    torch.stack(losses(StepContext(balancer.compute_weights))).sum().backward()
    assert balancer.solves == 1
    gradients = [p.grad for p in shared(model)]
    assert all(g is not None for g in gradients)
    return gradients, balancer  # type: ignore[return-value]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_a_level_of_parameters_is_separate_backwards_and_a_combination(
    level: str, checkpointing: bool, make_double: Callable[..., Any]
) -> None:
    model, losses = make_double(checkpointing=checkpointing)
    separate = separate_gradients(model, losses)
    inside = [".layer.1." in name or "layers" not in level or "more" in level for name, _ in _shared_names(model)]
    flat = torch.stack(
        [torch.cat([g.reshape(-1) for g, used in zip(gs, inside, strict=True) if used]) for gs in separate]
    )
    gram = (flat @ flat.T).numpy()
    # MGDA of two and three objectives by brute force would repeat its own test: here upgrading the weights is enough.
    found, balancer = balanced_gradients(model, losses, method="mgda", level=LEVELS[level], normalize="none")
    assert balancer._weights is not None
    expected_weights = _min_norm(gram, np.array([1.0, 2.0, 0.5]))
    np.testing.assert_allclose(balancer._weights, expected_weights, rtol=0, atol=1e-10)
    for place, gradient in enumerate(found):
        combined = sum(float(w) * gs[place] for w, gs in zip(expected_weights, separate, strict=True))
        torch.testing.assert_close(gradient, combined, rtol=1e-10, atol=1e-12)


def _shared_names(model: SlateModel) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if ".shared." in name]


def _min_norm(gram: np.ndarray, preference: np.ndarray) -> np.ndarray:
    """Min-norm weights of the hull of g_k / p_k by trying every face, as weights on g_k that sum to one."""
    from itertools import combinations

    scaled = gram / np.outer(preference, preference)
    best, answer = np.inf, np.zeros(len(gram))
    for size in range(1, len(gram) + 1):
        for face in map(list, combinations(range(len(gram)), size)):
            tau = np.linalg.solve(scaled[np.ix_(face, face)], np.ones(size))
            tau = tau / tau.sum()
            length = tau @ scaled[np.ix_(face, face)] @ tau
            if (tau >= 0).all() and length < best:
                best, answer = length, np.zeros(len(gram))
                answer[face] = tau
    alpha = answer / preference
    return alpha / alpha.sum()


def test_the_levels_differ_and_the_boundary_measures_z(make_double: Callable[..., Any]) -> None:
    model, losses = make_double()
    cosines = {}
    for name, level in {"boundary": "boundary", **LEVELS}.items():
        _, balancer = balanced_gradients(model, losses, method="pcgrad", level=level)
        cosines[name] = balancer.drain()["balance/cosine/ctr-cvr"]
    assert cosines["parameters"] == pytest.approx(cosines["more layers than there are"], abs=1e-14)
    assert abs(cosines["boundary"] - cosines["parameters"]) > 1e-3
    assert abs(cosines["layers"] - cosines["parameters"]) > 1e-3


def test_a_probe_logs_every_layer_and_changes_nothing(make_double: Callable[..., Any]) -> None:
    model, losses = make_double()
    plain, _ = balanced_gradients(model, losses, method="pcgrad")
    probed, balancer = balanced_gradients(model, losses, method="pcgrad", probe_every=1)
    assert all(torch.equal(a, b) for a, b in zip(plain, probed, strict=True))
    separate = separate_gradients(model, losses)
    log = balancer.drain()
    for layer in range(2):
        rows = [f".layer.{layer}." in name for name, _ in _shared_names(model)]
        flat = [torch.cat([g.reshape(-1) for g, used in zip(gs, rows, strict=True) if used]) for gs in separate]
        expected = float(torch.nn.functional.cosine_similarity(flat[0], flat[1], dim=0))
        assert log[f"balance/layer-{layer}/cosine/ctr-cvr"] == pytest.approx(expected, abs=1e-10)


class GivenGradients(BoundaryGradients):
    """Gradients at the boundary whose parameter gradients are given."""

    def __init__(self, rows: torch.Tensor) -> None:
        super().__init__(torch.zeros(1), tuple(rows))
        self._rows = rows

    def gradients(self, parameters: Any) -> torch.Tensor:
        return self._rows


@pytest.mark.parametrize("accumulate", [1, 2])
def test_unbiased_is_the_mean_product_of_different_processes(
    accumulate: int, run_world: Callable[..., list[Any]]
) -> None:
    size, generator = 4, torch.Generator().manual_seed(1)
    common = 3 * torch.randn(1, 3, 50, generator=generator, dtype=torch.float64)
    local = common + torch.randn(size, 3, 50, generator=generator, dtype=torch.float64)  # their mean is the gradient
    config = BalancingConfig(method="mgda", level="parameters", unbiased=True)

    def work(world: World) -> np.ndarray:
        measure = GramReader(config, [[torch.nn.Parameter(torch.zeros(1))]], world, scale=size / accumulate)
        return measure.gram(GivenGradients(local[world.rank] / accumulate))

    expected = np.zeros((3, 3))
    for r in range(size):
        for s in range(size):
            if r != s:
                expected += (local[r] @ local[s].T).numpy() / (size * (size - 1))
    for gram in run_world(size, work):
        np.testing.assert_allclose(gram, (expected + expected.T) / 2, rtol=1e-10)  # far from zero: no projection
    # It is free of the noise's own length, which the plain matrix is not.
    plain = GramReader(BalancingConfig(method="mgda", level="parameters"), [[]], World(), scale=1.0)
    true = (common[0] @ common[0].T).numpy()
    biased = plain.gram(GivenGradients(local.mean(0)))
    assert np.trace(biased) > np.trace(true)
    assert abs(np.trace(expected) - np.trace(true)) < np.trace(biased) - np.trace(true)


def test_unbiased_noise_becomes_a_gram_matrix(run_world: Callable[..., list[Any]]) -> None:
    noise = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    config = BalancingConfig(method="mgda", level={"layers": 1}, unbiased=True)
    trunk = [[torch.nn.Parameter(torch.zeros(1))]]
    raw = (noise[0] @ noise[1].T).numpy()
    assert np.linalg.eigvalsh(raw + raw.T).min() < 0

    def work(world: World) -> np.ndarray:
        return GramReader(config, trunk, world, scale=2.0).gram(GivenGradients(noise[world.rank]))

    one, two = run_world(2, work)
    assert np.array_equal(one, two)
    assert np.linalg.eigvalsh(one).min() > -1e-12


def test_unbiased_needs_two_processes() -> None:
    config = BalancingConfig(method="mgda", level="parameters", unbiased=True)
    with pytest.raises(UserError, match="at least 2 processes"):
        Balancer("ab", [1.0, 1.0], config, World(), 1.0)

"""From this process's Gram matrix to everybody's weights."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from equipoise.common.errors import UserError
from equipoise.configs.balancing import BalancingConfig
from equipoise.modeling.boundary import BoundaryGradients, StepContext
from equipoise.train.balancing.balancer import Balancer, weights_on_gradients
from equipoise.train.balancing.gradient_stats import condition
from equipoise.train.balancing.registry import build_method
from equipoise.train.world import World

METHODS = ["weighted", "mgda", "pcgrad"]
NORMALIZE = ["none", "l2", "loss"]


def weights_of(
    gram: np.ndarray, method: str, normalize: str = "l2", preference: np.ndarray | None = None, step: int = 0
) -> np.ndarray:
    count = len(gram)
    with np.errstate(over="ignore", invalid="ignore"):
        done = condition(gram, normalize, np.ones(count))
    names = "abcdefghij"[:count]
    chosen = build_method(BalancingConfig(method=method))
    return weights_on_gradients(
        chosen, done, names, np.ones(count) if preference is None else preference, np.ones(count), step
    )


def gradients_of(rows: torch.Tensor) -> BoundaryGradients:
    return BoundaryGradients(torch.zeros(1), tuple(rows))


def gradients_with(gram: list[list[float]] | np.ndarray) -> BoundaryGradients:
    """Vectors that have this Gram matrix."""
    values, vectors = np.linalg.eigh(np.array(gram))
    return gradients_of(torch.from_numpy(vectors * np.sqrt(np.maximum(values, 0.0))))


def weights_from(
    balancer: Balancer, gradients: BoundaryGradients, step: int = 0, losses: list[float] | None = None
) -> list[float]:
    context = StepContext(step=step)
    if losses is not None:
        context.report_losses(balancer.names, np.array(losses))
    return balancer.compute_weights(gradients, context)


def gram_of(vectors: np.ndarray) -> np.ndarray:
    return vectors @ vectors.T


@st.composite
def badly_scaled(draw: st.DrawFn) -> np.ndarray:
    """Vectors with norms over 10^±4, some of them equal, opposed or zero."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    count = draw(st.integers(1, 5))
    vectors = rng.standard_normal((count, draw(st.integers(1, 6)))) * 10.0 ** rng.uniform(-4, 4, (count, 1))
    for k in range(1, count):
        kind = draw(st.sampled_from(["free", "free", "equal", "opposed", "zero"]))
        factor = {"free": None, "equal": 1.0, "opposed": -0.5, "zero": 0.0}[kind]
        if factor is not None:
            vectors[k] = factor * vectors[k - 1]
    return vectors


@given(badly_scaled(), st.sampled_from(METHODS), st.sampled_from(NORMALIZE))
def test_the_order_of_objectives_does_not_matter(vectors: np.ndarray, method: str, normalize: str) -> None:
    order = np.random.default_rng(len(vectors)).permutation(len(vectors))
    preference = np.linspace(0.5, 2.0, len(vectors))
    direct = weights_of(gram_of(vectors), method, normalize, preference) @ vectors
    shuffled = weights_of(gram_of(vectors[order]), method, normalize, preference[order]) @ vectors[order]
    scale = np.abs(weights_of(gram_of(vectors), method, normalize, preference)[:, None] * vectors).max() + 1e-300
    # The direction, for among equal gradients the weights are free; opposed ones cancel to the root of rounding.
    np.testing.assert_allclose(shuffled / scale, direct / scale, atol=1e-7)


@given(badly_scaled(), st.sampled_from(METHODS), st.sampled_from(NORMALIZE), st.integers(-30, 30))
def test_a_common_scale_does_not_matter(vectors: np.ndarray, method: str, normalize: str, power: int) -> None:
    gram = gram_of(vectors)
    # A power of two is exact, so the weights are bit-equal.
    assert np.array_equal(weights_of(gram, method, normalize), weights_of(gram * 4.0**power, method, normalize))


@given(badly_scaled(), st.sampled_from(["none", "l2"]))
def test_mgda_opposes_no_gradient(vectors: np.ndarray, normalize: str) -> None:
    gram = gram_of(vectors)
    done = condition(gram, normalize, np.ones(len(gram)))
    assume((done.floors == 1.0).all())
    weights = weights_of(gram, "mgda", normalize)
    scaled = vectors[done.active] * done.scales[:, None]
    direction = weights @ vectors
    longest = np.abs(weights[:, None] * vectors).max()
    for gradient in scaled:
        assert gradient @ direction >= direction @ direction - 1e-9 * longest * np.linalg.norm(gradient)
    np.testing.assert_allclose((weights[done.active] / done.scales).sum(), float(len(done.active) > 0), rtol=1e-12)


numbers = st.one_of(
    st.floats(-1e3, 1e3), st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([0.0, 1e-300, 1e300, np.nan])
)


@given(
    st.integers(1, 6).flatmap(lambda k: st.lists(numbers, min_size=k * k, max_size=k * k)),
    st.sampled_from(METHODS),
    st.sampled_from(NORMALIZE),
    st.booleans(),
)
def test_weights_are_finite_whatever_comes(values: list[float], method: str, normalize: str, symmetric: bool) -> None:
    count = int(len(values) ** 0.5)
    gram = np.array(values).reshape(count, count)
    with np.errstate(over="ignore", invalid="ignore"):
        if symmetric:
            gram = gram + gram.T
        done = condition(gram, normalize, np.ones(count))
        weights = weights_of(gram, method, normalize)
    assert weights.shape == (count,)
    assert np.isfinite(weights).all()
    assert (weights >= 0).all()
    assert not weights[np.setdiff1d(np.arange(count), done.active)].any()


def test_weighted_is_the_preference_and_l2_undoes_the_norms() -> None:
    vectors = np.array([[10.0, 0.0], [0.0, 0.1]])
    preference = np.array([1.0, 3.0])
    assert weights_of(gram_of(vectors), "weighted", "none", preference).tolist() == [1.0, 3.0]
    np.testing.assert_allclose(
        weights_of(gram_of(vectors), "weighted", "l2", preference) @ vectors, [5.05, 3 * 5.05], rtol=1e-12
    )


def test_without_a_common_scale_mgda_feeds_the_smallest_gradient() -> None:
    gram = gram_of(np.array([[10.0, 0.0], [0.0, 0.1]]))
    assert weights_of(gram, "mgda", "none")[0] < 2e-4
    np.testing.assert_allclose(weights_of(gram, "mgda", "l2") * [10.0, 0.1], [5.05 / 2] * 2, rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_weigh_as_one_and_agree_to_the_bit(method: str, run_world: Callable[..., list]) -> None:
    gradients = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(2))
    gradients *= torch.tensor([10.0, 1.0, 0.2])[:, None, None]
    gradients[1] -= gradients[0] * 0.05
    config = BalancingConfig(method=method)

    def work(world: World, accumulate: int) -> torch.Tensor:
        # The rows of this process, scaled as `World.scale_to_global_mean` and gradient accumulation scale a loss.
        rows = gradients.chunk(world.size, dim=1)[world.rank] * world.size / accumulate
        balancer = Balancer("abc", [1.0, 2.0, 0.5], config, world, scale=world.size / accumulate)
        weights = weights_from(balancer, gradients_of(rows))
        assert balancer.solves == 1
        return torch.cat(
            [torch.tensor(weights, dtype=torch.float64), torch.tensor([balancer.drain()["balance/norm/a"]])]
        )

    (alone,) = run_world(1, lambda world: work(world, 1))
    for size, accumulate in ((2, 1), (4, 2), (1, 3)):
        results = run_world(size, lambda world, n=accumulate: work(world, n))
        assert all(torch.equal(result, results[0]) for result in results)
        torch.testing.assert_close(results[0], alone, rtol=1e-5, atol=0)
    assert not torch.allclose(alone[:3], torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)) or method == "weighted"


def test_one_bad_process_leaves_the_objective_out_everywhere(run_world: Callable[..., list]) -> None:
    def work(world: World) -> tuple[list[float], dict[str, float]]:
        rows = torch.ones(2, 4)
        if world.rank == 1:
            rows[0, 0] = torch.nan
        balancer = Balancer(["ctr", "cvr"], [1.0, 1.0], BalancingConfig(method="weighted"), world, scale=2.0)
        return weights_from(balancer, gradients_of(rows)), balancer.drain()

    results = run_world(2, work)
    assert results[0][1]["balance/nonfinite/ctr"] == 1.0
    assert results[0][1]["balance/nonfinite/cvr"] == 0.0
    for weights, log in results:
        assert weights == [0.0, 1.0]
        assert "balance/norm/ctr" not in log
        assert log["balance/norm/cvr"] == pytest.approx(2**0.5)


def test_what_is_logged_is_the_mean_since_the_last_time() -> None:
    balancer = Balancer(["a", "b", "c"], [1.0, 2.0, 1.0], BalancingConfig(method="weighted"), World(), scale=1.0)
    weights_from(balancer, gradients_with([[4.0, -2.0, 0.0], [-2.0, 4.0, 0.0], [0.0, 0.0, 0.0]]))
    weights_from(balancer, gradients_with([[16.0, 4.0, 0.0], [4.0, 4.0, 0.0], [0.0, 0.0, 0.0]]))
    log = balancer.drain()
    # d is g_a + 2 g_b: ⟨g_a, d⟩ = 4 − 4 and 16 + 8, ⟨g_b, d⟩ = −2 + 8 and 4 + 8, ‖d‖² = 12 and 48.
    lengths = [12**0.5, 48**0.5]
    expected = {
        "balance/weight/a": 1.0,
        "balance/weight/b": 2.0,
        "balance/weight/c": 1.0 * 0,
        "balance/preference/a": 1.0,
        "balance/preference/b": 2.0,
        "balance/preference/c": 1.0,
        "balance/norm/a": 3.0,
        "balance/norm/b": 2.0,
        "balance/norm/c": 0.0,
        "balance/zero/a": 0.0,
        "balance/zero/b": 0.0,
        "balance/zero/c": 1.0,
        "balance/nonfinite/a": 0.0,
        "balance/nonfinite/b": 0.0,
        "balance/nonfinite/c": 0.0,
        "balance/scale/a": 1.0,
        "balance/scale/b": 1.0,
        "balance/floored/a": 0.0,
        "balance/floored/b": 0.0,
        "balance/cosine/a-b": 0.0,
        "balance/conflict/a-b": 0.5,
        "balance/conflict_rate": 0.5,
        "balance/length": sum(lengths) / 2,
        "balance/effect/a": 12.0,
        "balance/effect/b": 9.0,
        "balance/effect/c": 0.0,
        "balance/along/a": 24 / 4 / lengths[1] / 2,
        "balance/along/b": (6 / 2 / lengths[0] + 12 / 2 / lengths[1]) / 2,
        "balance/against/a": 0.0,
        "balance/against/b": 0.0,
    }
    assert set(log) == set(expected)
    for key, value in expected.items():
        assert log[key] == pytest.approx(value, abs=1e-6), key
    assert balancer.drain() == {}


def test_the_losses_reach_the_normalisation_and_the_step_the_orders() -> None:
    balancer = Balancer("ab", [1.0, 1.0], BalancingConfig(method="weighted", normalize="loss"), World(), scale=1.0)
    assert weights_from(balancer, gradients_with(np.eye(2)), losses=[0.5, 4.0]) == [2.0, 0.25]
    vectors = np.random.default_rng(3).standard_normal((6, 3))
    rows = gradients_of(torch.from_numpy(vectors))
    many = Balancer("abcdef", [1.0] * 6, BalancingConfig(method="pcgrad"), World(), scale=1.0)
    first = weights_from(many, rows)
    assert weights_from(many, rows) == first
    assert weights_from(many, rows, step=1) != first


def test_a_method_without_weights_stops_all_processes_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, run_world: Callable[..., list]
) -> None:
    def fail(self: object, stats: object) -> np.ndarray:
        raise np.linalg.LinAlgError("it is singular")

    def work(world: World) -> str:
        balancer = Balancer("ab", [1.0, 1.0], BalancingConfig(method="mgda"), world, scale=2.0)
        monkeypatch.setattr(type(balancer.method), "compute_weights", fail)
        with pytest.raises(UserError) as stop:
            weights_from(balancer, gradients_with(np.eye(2)))
        return str(stop.value)

    messages = run_world(2, work)
    assert "balancing.method=mgda found no weights at step 0 (it is singular)" in messages[0]
    assert all("choose another method" in message for message in messages)


def test_a_bound_is_about_the_loss_that_the_log_shows() -> None:
    config = BalancingConfig(method="epsilon_constraint", options={"bounds": {"b": -0.5}, "momentum": 0.0})
    held = {}
    for loss in (-0.9, -0.1):  # coverage lies between −1 and 0
        balancer = Balancer("ab", [1.0, 1.0], config, World(), 1.0, lower_bounds=[0.0, -1.0])
        held[loss] = weights_from(balancer, gradients_with([[1.0, -0.9], [-0.9, 1.0]]), losses=[1.0, loss])
    assert held[-0.9][1] < held[-0.1][1]  # broken bounds are mended
    assert held[-0.1][1] > 0.9


def test_reused_weights_drop_what_is_not_finite_and_cost_no_solve() -> None:
    balancer = Balancer("ab", [1.0, 2.0], BalancingConfig(method="weighted", balance_every=3), World(), 1.0)
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    solved = []
    for step in range(7):
        solved.append(weights_from(balancer, gradients_of(rows), step))
    assert solved == [[1.0, 2.0]] * 7
    assert balancer.solves == 3
    broken = torch.tensor([[1.0, torch.nan], [0.0, 1.0]])
    assert weights_from(balancer, gradients_of(broken), step=7) == [0.0, 2.0]
    assert weights_from(balancer, gradients_of(rows), step=8) == [1.0, 2.0]


def test_smoothing_averages_the_matrix_and_skips_bad_steps() -> None:
    balancer = Balancer("ab", [1.0, 1.0], BalancingConfig(method="mgda", normalize="none", gram_ema=0.5), World(), 1.0)
    weights_from(balancer, gradients_of(torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)))
    dropped = weights_from(balancer, gradients_of(torch.tensor([[1.0, 0.0], [0.0, torch.inf]], dtype=torch.float64)))
    assert dropped == [1.0, 0.0]
    found = weights_from(balancer, gradients_of(torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=torch.float64)))
    # Squares: 1 throughout; (0.25·1 + 0.5·9) / 0.75 with the bad step skipped.
    square = (0.25 * 1 + 0.5 * 9) / 0.75
    np.testing.assert_allclose(found, [square / (1 + square), 1 / (1 + square)], rtol=1e-12)


def test_another_method_cannot_go_on_from_a_checkpoint() -> None:
    famo = Balancer("ab", [1.0, 1.0], BalancingConfig(method="famo"), World(), 1.0)
    with pytest.raises(UserError, match=r"written with balancing\.method=mgda, this run has famo"):
        famo.restore(Balancer("ab", [1.0, 1.0], BalancingConfig(method="mgda"), World(), 1.0).state())


@pytest.mark.parametrize("method", [*METHODS, "nash", "imtl_g", "fairgrad", "upgrad", "cagrad", "aligned", "gradnorm"])
@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("length", [1e-4, 1e-7, 1e-9])
def test_a_gradient_that_is_mostly_rounding_gets_no_share_like_the_others(
    method: str, normalize: str, length: float
) -> None:
    """A fairness of one group, a coverage of one category: 1e-4 to 1e-9 of the others, in a direction of its own."""
    vectors = np.array([[1.0, 0.2, 0.0], [-0.3, 0.8, 0.0], [0.0, -0.1 * length, length]])
    losses = np.array([0.5, 0.4, length])
    done = condition(gram_of(vectors), normalize, losses)
    weights = weights_on_gradients(
        build_method(BalancingConfig(method=method)), done, ["a", "b", "c"], np.ones(3), losses, 0
    )
    shares = np.abs(weights) * np.linalg.norm(vectors, axis=1)
    assert shares[2] <= max(shares[:2].max() * 1.01 * length / 1e-3, 1.01 * length)
    assert np.isfinite(weights).all()


def test_above_the_noise_floor_every_length_is_left_alone() -> None:
    vectors = np.diag([1.0, 0.3, 1.01e-3])
    assert condition(gram_of(vectors), "l2", np.ones(3)).floors.tolist() == [1.0, 1.0, 1.0]
    weights = weights_of(gram_of(vectors), "pcgrad", "l2")
    shares = weights * np.diag(vectors)
    np.testing.assert_allclose(shares, shares[0])

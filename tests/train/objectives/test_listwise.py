"""Diversity, fairness and coverage: goals by loops, gradients by finite differences."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from equipoise.train.objectives.base import Exposure, Step
from equipoise.train.objectives.diversity import attribute_similarity, text_similarity
from equipoise.train.objectives.placed import PlacedObjective
from tests.train.objectives.listwise import listwise

SIZES = [4, 1, 3]
CATEGORY = [0, 0, 1, 0, 2, 1, 1, 3]
BRAND = [5, 5, 5, 6, 5, 7, 8, 7]
NAMES = ("diversity", "text", "parity", "merit", "coverage")


def objective(name: str, **options: object) -> PlacedObjective:
    return listwise(name, 5, **{"temperature": 0.8, "beta": 0.3, "form": "parallel", **options})


def outputs(seed: int = 0, count: int = 8) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(count, generator=generator, dtype=torch.float64) for name in ("ctr", "cvr", "goal")}
    made["embeddings"] = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    return made


def step(make_step: Callable[..., Step], values: dict[str, torch.Tensor], **options: object) -> Step:
    return make_step(SIZES, values, attributes={"category": CATEGORY, "brand": BRAND}, **options)


def slates_by_hand(
    values: dict[str, torch.Tensor], temperature: float = 0.8
) -> list[tuple[list[int], np.ndarray, np.ndarray]]:
    """(candidates, π, p) of every slate."""
    p = (values["ctr"].sigmoid() * values["cvr"].sigmoid()).detach().numpy()
    utility = (np.log(p) + values["goal"].detach().numpy()) / temperature
    out, start = [], 0
    for size in SIZES:
        index = list(range(start, start + size))
        out.append((index, np.exp(utility[index]) / np.exp(utility[index]).sum(), p[index]))
        start += size
    return out


def goal(name: str, make_step: Callable[..., Step], values: dict[str, torch.Tensor]) -> float:
    made, batch = objective(name), step(make_step, values)
    return float(made.goal(batch, Exposure.of(batch, "goal", 0.8)))


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_the_goal_plus_the_pull_to_relevance(name: str, make_step: Callable[..., Step]) -> None:
    values = outputs()
    batch = step(make_step, values)
    divergence = float(Exposure.of(batch, "goal", 0.8).kl_S().mean())
    assert divergence > 0.05
    loss = objective(name).loss(batch)
    assert float(loss) == pytest.approx(goal(name, make_step, values) + 0.3 * divergence, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_by_finite_differences(name: str, make_step: Callable[..., Step]) -> None:
    values = outputs(3)

    def loss(delta: torch.Tensor) -> torch.Tensor:
        # A fresh objective each time: its average starts anew, so the loss is a function of δ alone.
        return objective(name).loss(step(make_step, {**values, "goal": delta}))

    delta = values["goal"].clone().requires_grad_(True)
    assert torch.autograd.gradcheck(loss, (delta,), eps=1e-6, atol=1e-8, rtol=1e-6)
    (gradient,) = torch.autograd.grad(loss(delta), delta)
    assert gradient.abs().max() > 1e-3
    assert abs(float(gradient[4])) < 1e-12  # the slate of one candidate has nothing to shift


@pytest.mark.parametrize("name", NAMES)
def test_extreme_scores_keep_loss_and_gradient_finite(name: str, make_step: Callable[..., Step]) -> None:
    values = {key: value.float() for key, value in outputs(1).items()}
    values["ctr"] = torch.tensor([-90.0, -80.0, -95.0, -90.0, 50.0, -60.0, 60.0, 0.0])
    values["cvr"] = -values["ctr"].abs()
    values["goal"] = torch.tensor([60.0, -60.0, 0.0, 30.0, 5.0, 0.0, 90.0, -90.0]).requires_grad_(True)
    loss = objective(name).loss(step(make_step, values))
    assert torch.isfinite(loss)
    loss.backward()
    assert torch.isfinite(values["goal"].grad).all()


# -- diversity


def test_similarity_is_the_common_share_of_the_path() -> None:
    codes = torch.tensor([[1, 5], [1, 5], [1, 6], [2, 5]])
    similarity = attribute_similarity(codes, torch.tensor([[0, 1, 2, 3]]))[0]
    # Equal leaves under different roots are not alike.
    assert similarity.tolist() == [[1, 1, 0.5, 0], [1, 1, 0.5, 0], [0.5, 0.5, 1, 0], [0, 0, 0, 1]]


def test_text_similarity_is_the_cosine_about_the_centre() -> None:
    embeddings = torch.tensor([[3.0, 1.0], [1.0, 3.0], [1.0, 1.0 - 5.0], [6.0, 1.0]])
    similarity = text_similarity(embeddings, torch.tensor([1.0, 1.0]), torch.tensor([[0, 1, 2, 3]]))[0]
    # From the centre they point east, north, south and east.
    expected = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1]])
    torch.testing.assert_close(similarity, expected, rtol=0, atol=1e-6)


def test_diversity_by_loops(make_step: Callable[..., Step]) -> None:
    values = outputs(4)
    total = 0.0
    for index, pi, _ in slates_by_hand(values):
        for a, i in enumerate(index):
            for b, j in enumerate(index):
                alike = 0.0 if CATEGORY[i] != CATEGORY[j] else (1.0 if BRAND[i] == BRAND[j] else 0.5)
                total += pi[a] * pi[b] * alike
    assert goal("diversity", make_step, values) == pytest.approx(total / 3, rel=1e-12)
    centre = values["embeddings"].mean(0)
    total = 0.0
    for index, pi, _ in slates_by_hand(values):
        for a, i in enumerate(index):
            for b, j in enumerate(index):
                x, y = values["embeddings"][i] - centre, values["embeddings"][j] - centre
                total += pi[a] * pi[b] * max(0.0, float(x @ y / (x.norm() * y.norm())))
    assert goal("text", make_step, values) == pytest.approx(total / 3, rel=1e-12)


def test_less_of_the_same_lowers_diversity_loss(make_step: Callable[..., Step]) -> None:
    values = outputs(5)
    values["goal"] = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    values["ctr"] = values["cvr"] = torch.zeros(8, dtype=torch.float64)
    objective("diversity").loss(step(make_step, values)).backward()
    gradient = values["goal"].grad
    assert gradient[2] < 0  # the only one of its category gains exposure
    assert (gradient[[0, 1]] > 0).all()  # of two that are alike, and one of another brand
    assert gradient[2] < gradient[3] < gradient[0]


# -- fairness


@pytest.mark.parametrize("target", ["parity", "merit"])
def test_fairness_by_loops(target: str, make_step: Callable[..., Step]) -> None:
    values = outputs(6)
    exposed, due = np.zeros(5), np.zeros(5)
    for index, pi, p in slates_by_hand(values):
        share = np.full(len(index), 1 / len(index)) if target == "parity" else p / p.sum()
        for a, i in enumerate(index):
            exposed[CATEGORY[i]] += pi[a] / 3
            due[CATEGORY[i]] += share[a] / 3
    expected = 0.5 * sum((e - t) ** 2 / t for e, t in zip(exposed, due, strict=True) if t > 0)
    assert expected > 1e-3
    assert goal(target, make_step, values) == pytest.approx(expected, rel=1e-7)


def test_exposure_that_is_due_costs_nothing(make_step: Callable[..., Step]) -> None:
    values = outputs(7)
    values["goal"] = torch.zeros(8, dtype=torch.float64)
    batch = step(make_step, values)
    by_relevance = Exposure.of(batch, "goal", 1.0)  # at τ = 1 the exposure of relevance is its share
    assert float(objective("merit").goal(batch, by_relevance)) == pytest.approx(0.0, abs=1e-13)
    values["ctr"] = values["cvr"] = torch.zeros(8, dtype=torch.float64)
    assert goal("parity", make_step, values) == pytest.approx(0.0, abs=1e-13)


def test_fairness_and_coverage_average_over_time(make_step: Callable[..., Step]) -> None:
    for name in ("parity", "coverage"):
        averaged, alone = objective(name, momentum=0.9), objective(name, momentum=0.0)
        for seed in range(3):
            values = outputs(seed)
            batch = step(make_step, values)
            exposure = Exposure.of(batch, "goal", 0.8)
            now = exposure.by_group(exposure.pi_SM, torch.tensor(CATEGORY), 5) / 3
            before = averaged.state.get("exposure", now)
            averaged.loss(batch)
            torch.testing.assert_close(averaged.state["exposure"], 0.9 * before + 0.1 * now)
            alone.loss(batch)
            torch.testing.assert_close(alone.state["exposure"], now)
        assert averaged.state.keys() == ({"exposure", "target"} if name == "parity" else {"exposure"})


def test_the_gradient_of_an_averaged_goal_is_taken_at_the_average(make_step: Callable[..., Step]) -> None:
    made = objective("coverage", momentum=0.9, beta=0.0)
    made.loss(step(make_step, outputs(0)))
    average = made.state["exposure"].clone()
    values = outputs(1)
    delta = values["goal"].requires_grad_(True)
    (mine,) = torch.autograd.grad(made.loss(step(make_step, values)), delta)
    exposure = Exposure.of(step(make_step, values), "goal", 0.8)
    now = exposure.by_group(exposure.pi_SM, torch.tensor(CATEGORY), 5) / 3
    at = (0.9 * average + 0.1 * now).detach()
    slope = (at.clamp(min=1e-12).log() + (at > 1e-12)) / math.log(5)
    (expected,) = torch.autograd.grad((slope * now).sum(), delta)
    torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)


# -- coverage


def test_coverage_is_the_negative_entropy(make_step: Callable[..., Step]) -> None:
    values = outputs(8)
    exposed = np.zeros(5)
    for index, pi, _ in slates_by_hand(values):
        for a, i in enumerate(index):
            exposed[CATEGORY[i]] += pi[a] / 3
    assert exposed[4] == 0  # a category that nobody shows adds nothing
    expected = sum(e * math.log(e) for e in exposed if e) / math.log(5)
    assert goal("coverage", make_step, values) == pytest.approx(expected, rel=1e-12)
    assert -1 <= expected <= 0


def test_coverage_of_one_category_is_nought(make_step: Callable[..., Step]) -> None:
    made = objective("coverage")
    made.groups = 1
    batch = make_step(SIZES, outputs(), attributes={"category": [0] * 8})
    assert float(made.goal(batch, Exposure.of(batch, "goal", 1.0))) == pytest.approx(0.0, abs=1e-12)

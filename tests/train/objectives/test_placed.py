"""Objectives that learn by drawn lists: rewards by hand, and gradients beside those of the exact expectation."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equipoise.common.lists import group_prices
from equipoise.configs.objectives import DiversityConfig
from equipoise.data.batches import RestBatch
from equipoise.modeling.relevance import Relevance
from equipoise.train.objectives import drawn_lists
from equipoise.train.objectives.base import Step
from equipoise.train.objectives.grouped import prices_of
from equipoise.train.objectives.placed import PlacedObjective, WholeSlates
from tests.train.objectives.listwise import listwise

SIZES = [4, 3]
CATEGORY, BRAND = [0, 0, 1, 0, 2, 2, 1], [5, 5, 6, 7, 5, 8, 8]
CLICK = [0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0]
NAMES = ("diversity", "parity", "merit", "coverage")


def objective(name: str, **options: object) -> PlacedObjective:
    options = {"places": 2, "explore": 0.4, "beta": 0.0, "momentum": 0.0, **options}
    if name == "diversity":
        del options["momentum"]
    return listwise(name, 3, **options)


def outputs(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(7, generator=generator) for name in ("ctr", "cvr", "goal")}


def step(make_step: Callable[..., Step], values: dict[str, torch.Tensor], **options: object) -> Step:
    more = {"attributes": {"category": CATEGORY, "brand": BRAND}, "click": CLICK, **options}
    return make_step(SIZES, values, **more)


def rewards(name: str, values: dict[str, torch.Tensor], omega: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Per slate the chance of every list of two under the policy, with gradient, and what it earns; loops."""
    r = (values["ctr"].sigmoid().log() + values["cvr"].sigmoid().log()).detach()
    discount = [1.0, 1 / math.log2(3)]
    exposed, due = np.zeros(3), np.zeros(3)
    slates, start = [], 0
    for size in SIZES:
        slates.append(list(range(start, start + size)))
        start += size
    for rows in slates:
        order = sorted(rows, key=lambda i: -float(r[i]))
        for d, i in zip(discount, order, strict=False):
            exposed[CATEGORY[i]] += d / sum(discount) / len(slates)
        softmax = r[rows].softmax(0).tolist()
        for i, share in zip(rows, softmax, strict=True):
            due[CATEGORY[i]] += (share if name == "merit" else 1 / len(rows)) / len(slates)
    price = group_prices(exposed, due)
    found = []
    for rows in slates:
        gain = {i: CLICK[i] for i in rows}
        best = sorted(gain.values(), reverse=True)
        ideal = sum(d * g for d, g in zip(discount, best, strict=False))
        worth_of = r[rows].exp()
        top = sum(d * w for d, w in zip(discount, sorted(worth_of.tolist(), reverse=True), strict=False))
        worth = dict(zip(rows, (worth_of / top).tolist(), strict=True))
        chances, earned = [], []
        for pair in itertools.permutations(rows, 2):
            log_chance, reward, left = torch.zeros(()), 0.0, list(rows)
            for place, chosen in enumerate(pair):
                utility = []
                for i in left:
                    if name == "diversity":
                        distance = sum(1 - _alike(i, j) for j in pair[:place])
                        added = values["goal"][i].exp() * distance
                    else:
                        added = discount[place] / sum(discount) * (float(price[CATEGORY[i]]) + values["goal"][i])
                    utility.append(discount[place] * worth[i] + omega * added)
                logits = torch.stack([torch.as_tensor(u, dtype=torch.float32) for u in utility]) / 0.4
                log_chance = log_chance + logits.log_softmax(0)[left.index(chosen)]
                if name == "diversity":
                    own = sum(1 - _alike(chosen, j) for j in pair[:place])
                else:
                    own = discount[place] / sum(discount) * float(price[CATEGORY[chosen]])
                reward += discount[place] * gain[chosen] / ideal + omega * own
                left.remove(chosen)
            chances.append(log_chance.exp())
            earned.append(reward)
        found.append((torch.stack(chances), torch.tensor(earned)))
    return found


def _alike(i: int, j: int) -> float:
    same = CATEGORY[i] == CATEGORY[j]
    return (same + (same and BRAND[i] == BRAND[j])) / 2


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_the_expected_reward(
    name: str, make_step: Callable[..., Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Averaged over many draws, loss and gradient are those of all lists weighed by their chance."""
    monkeypatch.setattr(drawn_lists, "LEAST", 0.8)
    monkeypatch.setattr(drawn_lists, "MOST", 0.8)
    values = outputs()
    values["goal"].requires_grad_()
    exact = -sum((chance * earned).sum() for chance, earned in rewards(name, values, 0.8)) / len(SIZES)
    assert isinstance(exact, torch.Tensor)
    wanted = torch.autograd.grad(exact, values["goal"])[0]
    built = objective(name, samples=4000)
    total, gradient, draws = 0.0, torch.zeros(7), 12
    for draw in range(draws):
        told = step(make_step, values)
        told = replace(told, batch=replace(told.batch, row=told.batch.row + 100 * draw))
        loss = built.loss(told)
        gradient += torch.autograd.grad(loss, values["goal"])[0] / draws
        total += loss.item() / draws
    assert total == pytest.approx(exact.item(), abs=0.01)
    assert wanted.abs().max() > 0.02
    torch.testing.assert_close(gradient, wanted, atol=0.006, rtol=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_descending_the_loss_raises_the_reward(name: str, make_step: Callable[..., Step]) -> None:
    values = outputs(3)
    values["goal"] = torch.zeros(7, requires_grad=True)
    built, solver = objective(name, samples=64), torch.optim.SGD([values["goal"]], lr=0.5)
    first = sum(float((c * e).sum()) for c, e in rewards(name, values, 1.0))
    for number in range(60):
        told = step(make_step, values)
        loss = built.loss(replace(told, batch=replace(told.batch, row=told.batch.row + 10 * number)))
        solver.zero_grad()
        loss.backward()
        solver.step()
    last = sum(float((c * e).sum()) for c, e in rewards(name, values, 1.0))
    assert last > first + 0.005


def test_a_slate_without_click_teaches_nothing(make_step: Callable[..., Step]) -> None:
    values = outputs()
    values["goal"].requires_grad_()
    click = [*CLICK[:4], 0.0, 0.0, 0.0]
    built = objective("diversity", beta=1.0)
    gradient = torch.autograd.grad(built.loss(step(make_step, values, click=click)), values["goal"])[0]
    assert gradient[:4].abs().max() > 0 and not gradient[4:].any()


def test_the_pull_is_the_mean_square(make_step: Callable[..., Step]) -> None:
    values = outputs()
    bare, pulled = (objective("diversity", beta=beta).loss(step(make_step, values)) for beta in (0.0, 0.7))
    squares = values["goal"].square()
    wanted = 0.7 * (squares[:4].mean() + squares[4:].mean()) / 2
    assert (pulled - bare).item() == pytest.approx(wanted.item(), abs=1e-5)


def test_candidates_that_were_left_out_take_part_by_their_priors(make_step: Callable[..., Step]) -> None:
    """The same lists as if they had been sampled with those logits and δ = 0, in another order of candidates."""
    values = outputs()
    values["goal"] = torch.tensor([0.0, 0.3, 0.0, -0.2, 0.0, 0.4, 0.1])
    told = step(make_step, values)
    formula = Relevance({"ctr": 1.0, "cvr": 1.0})
    whole = WholeSlates.of(replace(told, formula=formula), "goal", ["category", "brand"])
    kept = [1, 3, 5, 6]
    few = {name: each[kept] for name, each in values.items()}
    sampled = make_step(
        [2, 2],
        few,
        attributes={"category": [CATEGORY[i] for i in kept], "brand": [BRAND[i] for i in kept]},
        click=[CLICK[i] for i in kept],
    )
    left = [0, 2, 4]
    prior = torch.stack([values["ctr"][left], values["cvr"][left]], dim=1)
    codes = {"category": torch.tensor([CATEGORY[i] for i in left]), "brand": torch.tensor([BRAND[i] for i in left])}
    rest = RestBatch(torch.tensor([[0, 1], [2, -1]]), prior, codes)
    sampled = replace(sampled, batch=replace(sampled.batch, rest=rest), formula=formula, priors=("ctr", "cvr"))
    found = WholeSlates.of(sampled, "goal", ["category", "brand"])
    for row, order in enumerate(([1, 3, 0, 2], [1, 2, 0])):
        size = len(order)
        assert found.filled_SM[row].sum() == size
        place = found.filled_SM[row].nonzero()[:, 0]
        for name in ("relevance_SM", "gain_SM", "delta_SM"):
            torch.testing.assert_close(getattr(found, name)[row, place], getattr(whole, name)[row, order])
        for name in ("category", "brand"):
            assert found.codes[name][row, place].tolist() == whole.codes[name][row, order].tolist()
    assert math.isfinite(objective("diversity").loss(sampled).item())


def test_draws_of_a_slate_do_not_depend_on_the_others(make_step: Callable[..., Step]) -> None:
    """So one process with all slates and two with half each learn the same."""
    values = outputs()
    values["goal"].requires_grad_()
    built = objective("diversity", places=6)  # more than there are candidates
    together = torch.autograd.grad(built.loss(step(make_step, values)), values["goal"])[0]
    for number, part in enumerate((slice(0, 4), slice(4, 7))):  # the longer one, and the shorter one
        alone = {name: each[part] for name, each in values.items()}
        codes = {"category": CATEGORY[part], "brand": BRAND[part]}
        told = make_step([part.stop - part.start], alone, attributes=codes, click=CLICK[part])
        told = replace(told, batch=replace(told.batch, row=told.batch.row + number))
        own = torch.autograd.grad(built.loss(told), values["goal"])[0]
        torch.testing.assert_close(together[part] * 2, own[part])
    assert objective("diversity").lower_bound < built.loss(told).item()


def test_greedy_wants_attributes() -> None:
    with pytest.raises(ValueError, match="compares items by attributes"):
        DiversityConfig(similarity="text", form="greedy")
    assert DiversityConfig(similarity="text").form == "parallel" and DiversityConfig().form == "greedy"


@given(st.integers(0, 2**31), st.integers(1, 6))
def test_prices_on_the_device_are_those_of_lists(seed: int, groups: int) -> None:
    rng = np.random.default_rng(seed)
    exposed, due = (rng.dirichlet(np.full(groups, 0.3)) * (rng.random(groups) > 0.2) for _ in range(2))
    found = prices_of(torch.from_numpy(exposed), torch.from_numpy(due))
    np.testing.assert_allclose(found.numpy(), group_prices(exposed, due), atol=1e-12)


def test_draws_look_even_and_are_functions_of_seed_and_number() -> None:
    seeds, numbers = torch.arange(40)[:, None], torch.arange(500)
    drawn = drawn_lists.uniform(seeds, numbers)
    assert torch.equal(drawn[7], drawn_lists.uniform(torch.tensor(7), numbers))
    assert (drawn > 0).all() and (drawn < 1).all() and len(drawn.unique()) > 19_900
    counts = torch.histc(drawn, 20, 0, 1)
    assert ((counts - 1000).square() / 1000).sum() < 45  # χ² with 19 degrees of freedom, p = .001
    for one, other in ((drawn[:-1], drawn[1:]), (drawn[:, :-1], drawn[:, 1:])):
        assert torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1].abs() < 0.03

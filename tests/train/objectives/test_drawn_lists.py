"""The drawn lists' gradient, written out, beside autograd through the probabilities of the same lists."""

import pytest
import torch

from equipoise.common.lists import FARTHEST, discounts
from equipoise.train.objectives.drawn_lists import _noise, drawn_lists
from equipoise.train.objectives.pointwise import as_shown, chain_loss, entire_space_loss

DRAWS, PLACES, EXPLORE, BETA, TOTAL, SIZE = 5, 3, 0.4, 0.3, 4.0, 2


def _inputs() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    at = torch.tensor([[2, 0, 1, -1, -1], [4, 3, -1, -1, -1]])
    filled = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], dtype=torch.bool)  # one was left out, and has its prior
    delta = 8 * random(5) - 4  # some beyond what counts of a distance
    return {
        "delta": delta, "at": at, "filled": filled, "worth": random(2, 5), "gain": random(2, 5) * filled,
        "ideal": random(2), "seeds": torch.tensor([3, 8]), "weight": torch.tensor([1.0, 0.5], dtype=torch.float64),
        "discount": torch.from_numpy(discounts(PLACES)).double(),
        "all": torch.from_numpy(discounts(PLACES + 1)).double(),
    }  # fmt: skip


def _reference(x: dict[str, torch.Tensor], price: torch.Tensor | None, distance: torch.Tensor | None) -> torch.Tensor:
    """Loops over slates, lists and places; log-probabilities by autograd."""
    omega, gumbel = _noise(x["seeds"], x["filled"], DRAWS, PLACES, len(x["all"]))
    total = torch.zeros((), dtype=torch.float64)
    for s in range(2):
        delta = torch.where(x["at"][s] >= 0, x["delta"][x["at"][s].clamp(min=0)], 0.0)
        rewards, chances = [], []
        for d in range(DRAWS):
            left, apart = x["filled"][s].clone(), torch.zeros(5, dtype=torch.float64)
            reward, log_chance = 0.0, torch.zeros((), dtype=torch.float64)
            for k in range(PLACES):
                if not left.any():
                    break
                if distance is None:
                    assert price is not None
                    share = x["discount"][k] / x["all"].sum()
                    added, measured = share * (price[s] + delta), share * price[s]
                else:
                    measured = 2 / (len(x["all"]) * (len(x["all"]) - 1)) * apart
                    added = delta.clamp(-FARTHEST, FARTHEST).exp() * measured
                logits = (x["discount"][k] * x["worth"][s] + omega[s] * added) / EXPLORE
                logits = logits.masked_fill(~left, -torch.inf)
                best = int((logits.detach() + gumbel[s, d, k]).argmax())
                log_chance = log_chance + logits.log_softmax(0)[best]
                own = x["gain"][s, best] * x["discount"][k] / x["ideal"][s] + omega[s] * measured[best]
                reward = reward + float(own)
                left[best] = False
                if distance is not None:
                    apart = apart + distance[s, best]
            rewards.append(reward)
            chances.append(log_chance)
        mean = sum(rewards) / DRAWS
        loss = BETA * delta.square().sum() / x["filled"][s].sum() - mean
        for reward, log_chance in zip(rewards, chances, strict=True):
            better = (reward - mean) * DRAWS / (DRAWS - 1)
            loss = loss - better * (log_chance - log_chance.detach()) / DRAWS
        total = total + x["weight"][s] * loss
    return total * SIZE / TOTAL


@pytest.mark.parametrize("kind", ["price", "distance"])
def test_the_gradient_is_that_of_autograd(kind: str) -> None:
    x, g = _inputs(), torch.Generator().manual_seed(1)
    price = torch.rand(2, 5, generator=g, dtype=torch.float64) if kind == "price" else None
    distance = torch.rand(2, 5, 5, generator=g, dtype=torch.float64) if kind == "distance" else None
    x["delta"].requires_grad_()
    wanted = _reference(x, price, distance)
    (slope,) = torch.autograd.grad(wanted, x["delta"])
    order = ("at", "filled", "worth", "gain", "ideal", "seeds", "weight", "discount", "all")
    total = torch.tensor(TOTAL, dtype=torch.float64)
    options = (total, EXPLORE, BETA, DRAWS, PLACES, SIZE)
    loss, found = drawn_lists(x["delta"].detach(), *(x[name] for name in order), price, distance, *options)
    torch.testing.assert_close(loss, wanted.detach(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found, slope, rtol=1e-6, atol=1e-9)
    assert slope.abs().max() > 1e-3


@pytest.mark.parametrize("placed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_slope_of_a_chain_is_that_of_autograd(count: int, placed: bool) -> None:
    g = torch.Generator().manual_seed(count)
    logits = [6 * torch.randn(40, generator=g, dtype=torch.float64) for _ in range(count)]
    labels = [(torch.rand(40, generator=g) < 0.5).double() for _ in range(count)]
    labels[-1][::7] = torch.nan  # not observed
    shift, counted = (torch.rand(40, generator=g, dtype=torch.float64) for _ in range(2))
    seen = torch.linspace(0.05, 1.0, 40, dtype=torch.float64) if placed else None  # the first place is always looked at
    logits[-1].requires_grad_()
    label = torch.stack(labels).nan_to_num().prod(0)
    wanted = (counted * chain_loss([as_shown(logits[0], seen) - shift, *logits[1:]], label)).sum() * 2 / 9
    (slope,) = torch.autograd.grad(wanted, logits[-1])
    known = [each.detach() for each in logits]
    loss, found = entire_space_loss(known, labels, shift, seen, counted, torch.tensor(9.0, dtype=torch.float64), 2)
    torch.testing.assert_close(loss, wanted.detach())
    torch.testing.assert_close(found, slope)
    far = torch.tensor([200.0, -200.0])
    places = torch.tensor([0.5, 1.0]) if placed else None
    slope = entire_space_loss([far] * count, [torch.ones(2)] * count, None, places, None, far[:1], 1)[1]
    assert torch.isfinite(slope).all()

"""Heads by themselves."""

import torch

from equipoise.modeling.heads import PointHead, SlateHead


def slate_head(hidden: int = 16, seed: int = 0) -> SlateHead:
    torch.manual_seed(seed)
    head = SlateHead(hidden)
    torch.nn.init.normal_(head.out.weight)
    return head.double()


def inputs(count: int, hidden: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(count, hidden, generator=generator, dtype=torch.float64),
        -torch.rand(count, generator=generator, dtype=torch.float64) * 5,
    )


def test_a_point_head_is_one_bias_free_map() -> None:
    head = PointHead(16, outputs=2)
    assert [name for name, _ in head.named_parameters()] == ["score.weight"]
    pooled = torch.randn(5, 16).to(torch.bfloat16)
    scores = head(pooled)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, pooled.float() @ head.score.weight.T)
    unit = torch.nn.functional.normalize(torch.randn(1000, 384), dim=-1) * 384**0.5  # as after a final norm
    assert PointHead(384)(unit).std() < 0.1


def test_delta_is_exactly_zero_at_the_start_and_can_leave_it() -> None:
    head = SlateHead(16)
    pooled, relevance = inputs(5)
    delta = head(pooled.float(), relevance.float(), torch.tensor([[0, 1, 2], [3, 4, -1]]))
    assert torch.equal(delta, torch.zeros(5))
    delta[2].backward()
    assert head.out.weight.grad.abs().max() > 0


def test_delta_of_a_slate_depends_on_that_slate_alone() -> None:
    head = slate_head()
    pooled, relevance = inputs(6)
    slate_candidates = torch.tensor([[0, 1, 2, 3], [4, 5, -1, -1]])
    together = head(pooled, relevance, slate_candidates)
    first = head(pooled[:4], relevance[:4], torch.tensor([[0, 1, 2, 3]]))
    second = head(pooled[4:], relevance[4:], torch.tensor([[0, 1]]))
    torch.testing.assert_close(together, torch.cat([first, second]), rtol=1e-6, atol=1e-6)
    changed = pooled.clone()
    changed[1] += 1
    moved = (head(changed, relevance, slate_candidates) - together).abs()
    assert moved[:4].min() > 1e-4
    assert moved[4:].max() < 1e-6


def test_delta_follows_its_candidate_whatever_the_order() -> None:
    head = slate_head()
    pooled, relevance = inputs(6)
    before = head(pooled, relevance, torch.tensor([[0, 1, 2, 3], [4, 5, -1, -1]]))
    assert before.std() > 0.05
    # The same candidates under other numbers, positions in another order, the slates exchanged.
    number = torch.tensor([2, 5, 0, 3, 1, 4])  # old candidate 2 is now candidate 0, …
    place = torch.argsort(number)
    slate_candidates = torch.stack([place[torch.tensor([5, 4, 0, 0])], place[torch.tensor([3, 1, 0, 2])]])
    slate_candidates[0, 2:] = -1
    after = head(pooled[number], relevance[number], slate_candidates)
    torch.testing.assert_close(after, before[number], rtol=1e-6, atol=1e-6)


def test_delta_reads_relevance() -> None:
    head = slate_head()
    pooled, relevance = inputs(3)
    slate_candidates = torch.tensor([[0, 1, 2]])
    assert (
        head(pooled, relevance + torch.tensor([1.0, 0.0, 0.0]), slate_candidates)
        - head(pooled, relevance, slate_candidates)
    ).abs().min() > 1e-5

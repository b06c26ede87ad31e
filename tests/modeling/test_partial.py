"""Attention to parts of the keys, added up, against attention to all of them in float64."""

import pytest
import torch

from equipoise.modeling.attention import partial


def reference(q, k, v, mask):
    scores = q.double() @ k.double().transpose(-1, -2) * 0.3 + mask.double()
    return scores.softmax(-1) @ v.double(), scores.logsumexp(-1)


def parts(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "_fused", lambda q, v: fused)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_one_part(fused: bool, causal: bool, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    parts(fused, monkeypatch)
    torch.manual_seed(0)
    q, k, v, grad = (torch.randn(3, 2, 7, 8) for _ in range(4))
    mask = torch.zeros(3, 1, 1, 7)
    if masked:
        mask[1, ..., 5:] = -torch.inf
    whole = mask.expand(3, 2, 7, 7)
    whole = whole.masked_fill(torch.ones(7, 7, dtype=torch.bool).triu(1), -torch.inf) if causal else whole
    inputs = [x.double().requires_grad_() for x in (q, k, v)]
    expected, lse = reference(*inputs, whole)
    out, found = partial.attend(q, k, v, 0.3, causal, mask if masked else None)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.double(), lse, rtol=1e-5, atol=1e-6)
    gradients = partial.attend_backward(grad, q, k, v, out, found, 0.3, causal, mask if masked else None)
    for gradient, exact in zip(gradients, torch.autograd.grad(expected, inputs, grad.double()), strict=True):
        torch.testing.assert_close(gradient.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fused", [True, False])
def test_two_parts_are_one_softmax(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    parts(fused, monkeypatch)
    torch.manual_seed(1)
    q, grad = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    keys, values = torch.randn(2, 3, 9, 4), torch.randn(2, 3, 9, 4)
    inputs = [x.double().requires_grad_() for x in (q, keys, values)]
    expected, exact_lse = reference(*inputs, torch.zeros(1))
    (out1, lse1), (out2, lse2) = (
        partial.attend(q, keys[:, :, part], values[:, :, part], 0.3, False, None) for part in (slice(6), slice(6, 9))
    )
    lse = torch.logaddexp(lse1, lse2)
    out = out1 * (lse1 - lse).exp()[..., None] + out2 * (lse2 - lse).exp()[..., None]
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(lse.double(), exact_lse, rtol=1e-5, atol=1e-6)
    found = [
        partial.attend_backward(grad, q, keys[:, :, part], values[:, :, part], out, lse.contiguous(), 0.3, False, None)
        for part in (slice(6), slice(6, 9))
    ]
    dq, dk, dv = torch.autograd.grad(expected, inputs, grad.double())
    torch.testing.assert_close((found[0][0] + found[1][0]).double(), dq, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([found[0][1], found[1][1]], 2).double(), dk, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([found[0][2], found[1][2]], 2).double(), dv, rtol=1e-5, atol=1e-5)


def test_scores_that_do_not_fit_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    parts(False, monkeypatch)
    torch.manual_seed(2)
    q, k, v, grad = (torch.randn(5, 2, 6, 4) for _ in range(4))
    mask = torch.zeros(5, 1, 1, 6)
    mask[3, ..., 4:] = -torch.inf
    whole = partial.attend(q, k, v, 0.3, False, mask)
    whole_back = partial.attend_backward(grad, q, k, v, *whole, 0.3, False, mask)
    monkeypatch.setattr(partial, "LARGEST_SCORES", 2 * 2 * 6 * 6)
    assert len(partial._pieces(q, k)) == 3
    pieces = partial.attend(q, k, v, 0.3, False, mask)
    for one, other in zip(whole, pieces, strict=True):
        torch.testing.assert_close(one, other)
    back = partial.attend_backward(grad, q, k, v, *pieces, 0.3, False, mask)
    for one, other in zip(whole_back, back, strict=True):
        torch.testing.assert_close(one, other)

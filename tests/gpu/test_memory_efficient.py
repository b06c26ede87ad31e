"""The kernels of GPUs against float64 and against the products that stand in where there are none."""

import pytest
import torch

from equipoise.modeling.attention import memory_efficient, partial

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


def case(dtype: torch.dtype, queries: int, keys: int, masked: bool) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """q, k, v and a gradient laid out as candidates are, (B, length, h, D) with two dimensions swapped; a mask."""
    torch.manual_seed(queries + keys)
    sizes = [(3, length, 4, 32) for length in (queries, keys, keys, queries)]
    tensors = [torch.randn(size, device="cuda").to(dtype).transpose(1, 2) for size in sizes]
    if not masked:
        return tensors, None
    mask = torch.zeros(3, 1, 1, keys, dtype=dtype, device="cuda")
    mask[1, ..., keys - 1 :], mask[2, ..., 1:] = -torch.inf, -torch.inf
    return tensors, mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("queries", "keys"), [(1, 5), (7, 7), (40, 40), (33, 70)])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_kernels_give_the_attention_and_its_gradients(
    dtype: torch.dtype, queries: int, keys: int, masked: bool, causal: bool
) -> None:
    if causal and queries != keys:
        pytest.skip("causal parts are square")
    (q, k, v, grad), mask = case(dtype, queries, keys, masked)
    assert memory_efficient.takes(q, v)
    exact = [x.double().requires_grad_() for x in (q, k, v)]
    scores = exact[0] @ exact[1].transpose(-1, -2) * 0.3
    scores = scores if mask is None else scores + mask.double()
    if causal:
        later = torch.ones(queries, keys, dtype=torch.bool, device="cuda").triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    expected, sums = scores.softmax(-1) @ exact[2], scores.logsumexp(-1)
    gradients = torch.autograd.grad(expected, exact, grad.double())
    out, lse = partial.attend(q, k, v, 0.3, causal, mask)
    back = partial.attend_backward(grad, q, k, v, out, lse.contiguous(), 0.3, causal, mask)
    for found, true in zip((out, lse, *back), (expected, sums, *gradients), strict=True):
        assert (found.double() - true).norm() <= TOLERANCE[dtype] * true.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_parts_are_one_softmax(dtype: torch.dtype) -> None:
    (q, k, v, grad), _ = case(dtype, 9, 21, False)
    cut = [(k[:, :, part], v[:, :, part]) for part in (slice(13), slice(13, 21))]
    exact = [x.double().requires_grad_() for x in (q, k, v)]
    scores = exact[0] @ exact[1].transpose(-1, -2) * 0.3
    expected = scores.softmax(-1) @ exact[2]
    dq, dk, dv = torch.autograd.grad(expected, exact, grad.double())
    (one, lse1), (two, lse2) = (partial.attend(q, *part, 0.3, False, None) for part in cut)
    lse = torch.logaddexp(lse1, lse2)
    out = one * (lse1 - lse).exp()[..., None].to(dtype) + two * (lse2 - lse).exp()[..., None].to(dtype)
    first, second = (partial.attend_backward(grad, q, *part, out, lse, 0.3, False, None) for part in cut)
    pairs = [(out, expected), (first[0] + second[0], dq)]
    pairs += [(torch.cat([first[n], second[n]], 2), true) for n, true in ((1, dk), (2, dv))]
    for found, true in pairs:
        assert (found.double() - true).norm() <= TOLERANCE[dtype] * true.norm()


def test_a_head_size_that_loads_are_not_aligned_to_is_left_to_products() -> None:
    q = torch.randn(1, 2, 3, 6, device="cuda")
    assert not memory_efficient.takes(q, q) and not memory_efficient.takes(q.cpu(), q.cpu())
    out, lse = partial.attend(q, q, q, 0.3, False, None)
    scores = q.double() @ q.double().transpose(-1, -2) * 0.3
    torch.testing.assert_close(out.double(), scores.softmax(-1) @ q.double(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lse.double(), scores.logsumexp(-1), rtol=1e-4, atol=1e-5)

"""A server's fused kernels on a GPU against the stock layers there, in bfloat16."""

from collections.abc import Callable

import pytest
import torch

from equipoise.modeling.folded import fold_shared
from equipoise.modeling.model import SlateModel
from equipoise.modeling.precision import narrow_base
from equipoise.serving.kernels import settle_kernels

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.mark.parametrize("trunk", ["joint", "apart"])
@pytest.mark.parametrize("scope", ["all", "candidates"])
@pytest.mark.parametrize("arch", ["llama", "qwen3", "bert", "modernbert"])
def test_they_are_taken_where_they_give_the_same(
    arch: str, scope: str, trunk: str, make_model: Callable[..., SlateModel]
) -> None:
    model = make_model(arch, scope=scope, trunk=trunk)
    fold_shared(model)
    model = model.to("cuda")
    narrow_base(model, packed=False)
    settle_kernels(model, "auto", "bf16")
    assert model.kernels == "fused"

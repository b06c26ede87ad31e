"""Kernels of a server: fused ones where they are asked for, or a GPU computes in bf16, and the same answers."""

from collections.abc import Callable
from typing import Any

import pytest

from equipoise.common.errors import UserError
from equipoise.modeling.model import SlateModel
from equipoise.serving import kernels
from equipoise.serving.kernels import settle_kernels
from equipoise.serving.recommender import Recommender

CANDIDATES = [{"item_id": f"i{n}", "context": {"seen_before": 1}} for n in range(6)]


def utilities(recommender: Recommender) -> list[float]:
    omega = {"diversity": 0.0, "fairness": 1.0}
    return [each.utility for each in recommender.rank({"age": "30"}, CANDIDATES, omega=omega).given]


@pytest.mark.parametrize("trunk", ["joint", "apart"])
@pytest.mark.parametrize("arch", ["llama", "bert"])
def test_fused_kernels_answer_as_plain_ones(arch: str, trunk: str, tiny_export: Callable[..., Any]) -> None:
    folder = tiny_export(arch, trunk=trunk).folder
    plain, fused = (Recommender.load(folder, kernels=way) for way in ("plain", "fused"))
    assert fused._scorer.model.kernels == "fused" and plain._scorer.model.kernels == "plain"
    for _ in range(2):  # the second time from the cache
        assert utilities(fused) == pytest.approx(utilities(plain), abs=1e-4)
    assert fused.cache.hits == 1


def test_a_cpu_keeps_plain_ones(tiny_export: Callable[..., Any]) -> None:
    assert Recommender.load(tiny_export("llama").folder)._scorer.model.kernels == "plain"


def test_what_they_cannot_compute_is_said(
    make_model: Callable[..., SlateModel], tiny_export: Callable[..., Any]
) -> None:
    with pytest.raises(UserError, match=r"--kernels fused: .*not gpt2.*: take auto or plain"):
        settle_kernels(make_model("gpt2"), "fused", "fp32")
    with pytest.raises(UserError, match="kernels is fast: give one of auto, fused, plain"):
        Recommender.load(tiny_export("llama").folder, kernels="fast")


def test_a_difference_is_refused_or_said(
    make_model: Callable[..., SlateModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("llama")
    right = kernels.FusedScorer.vectors
    monkeypatch.setattr(
        kernels.FusedScorer, "vectors", lambda self, *rest: {k: 1.01 * v for k, v in right(self, *rest).items()}
    )
    with pytest.raises(UserError, match=r"--kernels fused: they differ from the stock layers by 1\.0e-02"):
        settle_kernels(model, "fused", "fp32")
    assert model.kernels == "plain"
    with pytest.raises(UserError, match=r"--kernels fused: .* dtype of the frozen weights, which is torch\.float32"):
        settle_kernels(model, "fused", "bf16")

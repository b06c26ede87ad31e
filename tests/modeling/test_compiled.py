"""Compiled layers give what plain ones give, in training and in scoring, and are not compiled again and again."""

from collections.abc import Callable

import pytest
import torch

from equipoise.data.batches import Slate, build_batch
from equipoise.modeling.model import SlateModel


def gradients(model: SlateModel, slates: list[Slate]) -> dict[str, torch.Tensor]:
    inputs = build_batch(slates, 1000, 0).model_inputs()
    outputs = model.losses(inputs, lambda name, scores: scores[name].square().mean())
    outputs["losses"].sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_compiling_changes_nothing(
    make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate], arch: str, **options: object
) -> None:
    batches = [[make_slate(k, [5, 3, 2 + k], prefix=9 + k), make_slate(9, [4, 4], prefix=3)] for k in range(3)]
    plain, compiled = make_model(arch, **options), make_model(arch, compile=True, **options)
    torch._dynamo.utils.counters.clear()
    graphs = []
    for slates in batches:
        expected = gradients(plain, slates)
        scale = max(float(gradient.abs().max()) for gradient in expected.values())
        for name, gradient in gradients(compiled, slates).items():
            torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-5 * max(1.0, scale))
        with torch.inference_mode():
            inputs = build_batch(slates, 1000, 0).model_inputs()
            torch.testing.assert_close(compiled.score(inputs)["ctr"], plain.score(inputs)["ctr"], rtol=1e-5, atol=1e-5)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] > 0, "nothing was compiled"
    assert graphs[1] == graphs[-1], "other lengths are compiled anew"


@pytest.mark.slow
def test_what_is_traced_is_the_model(
    make_model: Callable[..., SlateModel],
    make_slate: Callable[..., Slate],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("equipoise.modeling.compiled.BACKEND", "aot_eager")
    assert_compiling_changes_nothing(make_model, make_slate, "bert", pointwise={"ctr": 1}, listwise=())


@pytest.mark.slow
def test_the_compiler_itself(make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate]) -> None:
    from torch._inductor import config

    with config.patch(compile_threads=1):  # else it starts interpreters that import torch each
        assert_compiling_changes_nothing(
            make_model, make_slate, "llama", scope="candidates", pointwise={"ctr": 1}, listwise=()
        )

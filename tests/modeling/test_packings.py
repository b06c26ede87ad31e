"""The two packings of a batch: prefixes apart (split), whole rows under a mask (sdpa, flex), on ragged slates."""

from collections.abc import Callable

import pytest
import torch

from equipoise.common.errors import UserError
from equipoise.data.batches import SlateBatch
from equipoise.modeling.model import SlateModel

RELATIVES = [("qwen3", "last"), ("mistral", "last"), ("roberta", "last"), ("roberta", "mean")]
READINGS = [
    *[("llama", "last"), ("gpt2", "last"), ("bert", "last"), ("bert", "mean")],
    *(pytest.param(*reading, marks=pytest.mark.slow) for reading in RELATIVES),  # left out by `make test-quick`
]
"""Architectures and what their heads read."""


def outputs_and_gradients(model: SlateModel, batch: SlateBatch) -> tuple[dict, dict]:
    outputs = model.score(batch.model_inputs())
    weights = torch.randn(batch.click.numel(), generator=torch.Generator().manual_seed(1))
    loss = sum(((k + 1) * output * weights).mean() for k, output in enumerate(outputs.values()))
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True)
    return outputs, dict(zip(named, gradients, strict=True))


def assert_same(one: tuple[dict, dict], other: tuple[dict, dict], tolerance: float = 1e-5) -> None:
    for name, output in one[0].items():
        torch.testing.assert_close(output, other[0][name], rtol=tolerance, atol=tolerance)
    scale = max(float(gradient.abs().max()) for gradient in one[1].values())
    assert scale > 1e-2
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], rtol=0, atol=tolerance * max(1.0, scale))


@pytest.mark.parametrize("scope", ["all", "candidates"])
@pytest.mark.parametrize(("arch", "pooling"), READINGS)
def test_split_is_the_masked_row(
    arch: str, pooling: str, scope: str, make_model: Callable[..., SlateModel], batch: SlateBatch
) -> None:
    split, rows = (make_model(arch, scope=scope, attention=a, pooling=pooling) for a in ("split", "sdpa"))
    assert_same(outputs_and_gradients(split, batch), outputs_and_gradients(rows, batch))


@pytest.mark.parametrize("arch", ["llama", "bert"])
def test_the_scopes_differ_in_what_prefix_tokens_get(
    arch: str, make_model: Callable[..., SlateModel], batch: SlateBatch
) -> None:
    everywhere, candidates = (
        make_model(arch, scope=scope).score(batch.model_inputs()) for scope in ("all", "candidates")
    )
    assert (everywhere["ctr"] - candidates["ctr"]).abs().max() > 1e-2
    plain = [make_model(arch, scope=scope, random_adapters=False) for scope in ("all", "candidates")]
    torch.testing.assert_close(*(model.score(batch.model_inputs())["ctr"] for model in plain))  # no adapters, no scope


@pytest.mark.parametrize("scope", ["all", "candidates"])
@pytest.mark.parametrize(("arch", "pooling"), [("llama", "last"), ("gpt2", "last"), ("bert", "last"), ("bert", "mean")])
def test_layers_may_also_run_to_their_end(
    arch: str, pooling: str, scope: str, make_model: Callable[..., SlateModel], batch: SlateBatch
) -> None:
    partial, whole = (make_model(arch, scope=scope, pooling=pooling, partial_last_layer=p) for p in (True, False))
    assert_same(outputs_and_gradients(partial, batch), outputs_and_gradients(whole, batch))


@pytest.mark.parametrize("scope", ["all", "candidates"])
@pytest.mark.parametrize("arch", ["llama", "bert"])
def test_one_by_one_and_checkpointing_change_nothing(
    arch: str, scope: str, make_model: Callable[..., SlateModel], batch: SlateBatch
) -> None:
    def judged(model: SlateModel) -> tuple[dict, dict]:
        outputs = model.losses(batch.model_inputs(), lambda name, found: found[name].square().mean())
        outputs["losses"].sum().backward()
        return outputs, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    found = [judged(make_model(arch, scope=scope, checkpointing=c).train()) for c in (False, True)]
    assert_same(*found)
    model = make_model(arch, scope=scope)
    outputs = model.score(batch.model_inputs())
    sum(output.square().mean() for output in outputs.values()).backward()
    assert_same(found[0], (found[0][0], {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))


@pytest.mark.parametrize("scope", ["all", "candidates"])
@pytest.mark.parametrize(("arch", "pooling"), [("llama", "last"), ("gpt2", "last"), ("bert", "last"), ("bert", "mean")])
@pytest.mark.parametrize(
    "most", [pytest.param(1, marks=pytest.mark.slow), 8, pytest.param(20, marks=pytest.mark.slow), 1000]
)
def test_scores_in_chunks(
    arch: str, pooling: str, scope: str, most: int, make_model: Callable[..., SlateModel], batch: SlateBatch
) -> None:
    model = make_model(arch, scope=scope, pooling=pooling)
    with torch.inference_mode():
        whole = model.score(batch.model_inputs())
        pieces = model.score(batch.model_inputs(), chunk_tokens=most)
    assert whole.keys() == pieces.keys()
    for name, output in whole.items():
        torch.testing.assert_close(pieces[name], output, rtol=1e-5, atol=1e-5)


def test_the_mean_of_a_decoder_is_refused(make_model: Callable[..., SlateModel]) -> None:
    with pytest.raises(UserError, match=r"backbone\.pooling: mean is for encoders.*set last"):
        make_model("llama", pooling="mean")


def test_embeddings_are_the_same(make_model: Callable[..., SlateModel], batch: SlateBatch) -> None:
    split, rows = (make_model("bert", keep_embeddings=True, attention=a) for a in ("split", "sdpa"))
    torch.testing.assert_close(*(model.score(batch.model_inputs())["embeddings"] for model in (split, rows)))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["llama", "bert"])
def test_flex_is_the_masked_row(arch: str, make_model: Callable[..., SlateModel], batch: SlateBatch) -> None:
    flex, rows = (make_model(arch, attention=attention) for attention in ("flex", "sdpa"))
    with torch.no_grad():
        one, other = flex.score(batch.model_inputs()), rows.score(batch.model_inputs())
    for name, output in one.items():
        torch.testing.assert_close(output, other[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scope", ["all", "candidates"])
@pytest.mark.parametrize("arch", ["llama", "qwen3", "bert"])
def test_bfloat16_stays_within_its_rounding(
    arch: str, scope: str, make_model: Callable[..., SlateModel], batch: SlateBatch
) -> None:
    exact = make_model(arch, scope=scope).score(batch.model_inputs())
    errors = {}
    for attention in ("split", "sdpa"):
        model = make_model(arch, scope=scope, attention=attention)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model.score(batch.model_inputs())
        errors[attention] = (found["ctr"].float() - exact["ctr"]).abs().max()
    spread = float(exact["ctr"].max() - exact["ctr"].min())
    assert errors["split"] < 0.05 * spread
    assert errors["split"] < 5 * errors["sdpa"]


def test_no_padding_is_computed(make_model: Callable[..., SlateModel], batch: SlateBatch) -> None:
    model = make_model("llama")
    model.score(batch.model_inputs())
    assert model.computed_tokens == int((batch.segment_ids >= 0).sum()) < batch.input_ids.numel()


def test_backbones_that_cannot_are_told_so(make_model: Callable[..., SlateModel], batch: SlateBatch) -> None:
    model = make_model("llama")
    layer = model.backbone.upper[0]
    layer.self_attn.forward = _with_softcap(layer.self_attn.forward)
    with pytest.raises(UserError, match=r"uses softcap in its attention: set backbone\.attention=sdpa"):
        model.score(batch.model_inputs())


def _with_softcap(forward: Callable) -> Callable:
    return lambda *args, **kwargs: forward(*args, **kwargs, softcap=30.0)

"""A trunk in which candidates see themselves alone: every way of computing it gives the same, whatever the prefix."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from equipoise.common.errors import UserError
from equipoise.data.batches import Slate, SlateBatch, build_batch
from equipoise.modeling.cached_scorer import CachedScorer, TokenSlate
from equipoise.modeling.model import SlateModel
from equipoise.modeling.prefix_cache import PrefixCache
from equipoise.train.self_check import self_check
from equipoise.train.world import World

FUSED = ("llama", "qwen3", "bert", "roberta", "modernbert")
FAMILY = (*FUSED, "gpt2")


@pytest.fixture
def pair(make_slate: Callable[..., Slate]) -> SlateBatch:
    return build_batch([make_slate(0, [5, 3, 7], prefix=9), make_slate(1, [2, 6], prefix=4)], 1000, 0)


def outputs_and_gradients(model: SlateModel, batch: SlateBatch) -> tuple[dict, dict]:
    weights = torch.randn(batch.click.numel(), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model.zero_grad()
    outputs = model.losses(
        batch.model_inputs(), lambda name, found: (found[name] * weights).mean() * (1 + model.objectives.index(name))
    )
    outputs["losses"].sum().backward()
    return outputs, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(one: tuple[dict, dict], other: tuple[dict, dict], tolerance: float = 1e-5) -> None:
    assert one[0].keys() == other[0].keys() and one[1].keys() == other[1].keys()
    for found, expected in zip(one, other, strict=True):
        for name, value in found.items():
            assert (value - expected[name]).norm() <= tolerance * expected[name].norm().clamp(min=1e-6), name


@pytest.mark.parametrize("scope", ["all", "candidates"])
@pytest.mark.parametrize("arch", FAMILY)
def test_split_attention_masked_rows_and_fused_kernels_agree(
    arch: str, scope: str, make_model: Callable[..., SlateModel], batch: SlateBatch
) -> None:
    split, rows = (make_model(arch, scope=scope, attention=kind, trunk="apart").double() for kind in ("split", "sdpa"))
    expected = outputs_and_gradients(rows, batch)
    assert max(float(g.abs().max()) for g in expected[1].values()) > 1e-3
    found = outputs_and_gradients(split, batch)
    assert_same(found, expected)
    if arch in FUSED:
        split.use_fused()
        assert_same(outputs_and_gradients(split, batch), found)
    joint = make_model(arch, scope=scope).double().score(batch.model_inputs())
    assert (joint["ctr"] - expected[0]["ctr"]).abs().max() > 1e-3


@pytest.mark.parametrize("attention", ["split", "sdpa"])
@pytest.mark.parametrize("arch", FAMILY)
def test_they_are_what_the_stock_class_makes_of_separate_prompts(
    arch: str, attention: str, make_model: Callable[..., SlateModel], pair: SlateBatch
) -> None:
    model = make_model(arch, attention=attention, scope="candidates", trunk="apart")
    assert self_check(model, model, pair, World()) < 1e-4


@pytest.mark.parametrize("arch", ["gpt2", "bert"])
def test_a_trunk_whose_states_move_with_the_prefix_is_refused(
    arch: str, make_model: Callable[..., SlateModel], pair: SlateBatch
) -> None:
    model = make_model(arch, trunk="apart")
    model.backbone.restarts = False  # as if nobody knew that its embeddings tell positions
    with pytest.raises(UserError, match=r"set backbone\.trunk=joint"):
        self_check(model, model, pair, World())


@pytest.mark.parametrize("arch", FAMILY)
def test_the_trunk_makes_the_same_of_a_candidate_behind_any_prefix(
    arch: str, make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate]
) -> None:
    def of_candidates(model: SlateModel, prefix: int) -> torch.Tensor:
        slate = make_slate(0, [5, 3], prefix=prefix)
        again = make_slate(7, [5, 3], prefix=9)  # the same candidates
        inputs = build_batch([Slate(**{**vars(slate), "candidates": again.candidates})], 100, 0).model_inputs()
        return model._begin(inputs).encode()[0]

    apart, joint = (make_model(arch, trunk=trunk).double() for trunk in ("apart", "joint"))
    with torch.no_grad():
        torch.testing.assert_close(of_candidates(apart, 3), of_candidates(apart, 17), rtol=1e-6, atol=1e-6)
        assert (of_candidates(joint, 3) - of_candidates(joint, 17)).abs().max() > 1e-2


@pytest.mark.parametrize("scope", ["all", "candidates"])
@pytest.mark.parametrize("most", [6, 1000])
@pytest.mark.parametrize("arch", ["llama", "gpt2", "bert"])
def test_pieces_and_cached_prefixes_give_the_same(
    arch: str, most: int, scope: str, make_model: Callable[..., SlateModel], batch: SlateBatch, pair: SlateBatch,
    make_slate: Callable[..., Slate],
) -> None:  # fmt: skip
    model = make_model(arch, scope=scope, trunk="apart")
    slates = [make_slate(0, [5, 3, 7], prefix=9), make_slate(1, [2, 6], prefix=4)]
    cache = PrefixCache(1 << 24)
    with torch.inference_mode():
        for each in (pair, batch):
            expected = model.score(each.model_inputs())
            for name, value in model.score(each.model_inputs(), chunk_tokens=most).items():
                torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5)
        expected = model.score(pair.model_inputs())
        for _ in range(2):
            found = CachedScorer(model, cache, most).score([TokenSlate(s.prefix, s.candidates) for s in slates])
            for name, value in found.items():
                torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5)
    (state, *_) = cache._states.values()
    assert not state.stages[0]  # of the trunk nobody reads prefixes' keys


@pytest.mark.parametrize("arch", FAMILY)
def test_an_item_passes_the_trunk_once_whoever_asks(
    arch: str, make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate]
) -> None:
    model = make_model(arch, scope="candidates", trunk="apart")
    one, other = make_slate(0, [5, 3, 7], prefix=9), make_slate(1, [2, 6], prefix=4)
    asked = [
        TokenSlate(one.prefix, one.candidates),
        TokenSlate(other.prefix, [one.candidates[2], other.candidates[0], one.candidates[0], other.candidates[0]]),
        TokenSlate(other.prefix, [other.candidates[0], one.candidates[0]]),
    ]
    seen: list[int] = []
    model.layers()[0].register_forward_hook(lambda module, args, output: seen.append(1))
    scorer = CachedScorer(model, PrefixCache(1 << 24), 1000)
    for slate, passes, (hits, misses) in zip(asked, (2, 4, 4), ((0, 3), (3, 4), (5, 4)), strict=True):
        found = scorer.score([slate])
        assert (len(seen), scorer.cache.item_hits, scorer.cache.item_misses) == (passes, hits, misses)
        alone = CachedScorer(model, PrefixCache(0), 1000).score([slate])
        with torch.inference_mode():
            none = np.zeros(len(slate.candidates), dtype=np.int64)
            batch = build_batch([Slate(0, slate.prefix, slate.candidates, none, none, none)], 100, 0)
            expected = model.score(batch.model_inputs())
        del seen[passes:]
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(alone[name], value, rtol=1e-5, atol=1e-5)


def test_a_backbone_that_makes_its_own_masks_is_refused(
    make_model: Callable[..., SlateModel], pair: SlateBatch
) -> None:
    model = make_model("llama", attention="sdpa", trunk="apart")
    for tap in model.backbone.taps:
        tap.register_forward_pre_hook(
            lambda module, args, kwargs: (args, {**kwargs, "attention_mask": None}), with_kwargs=True
        )
    with pytest.raises(UserError, match=r"set backbone\.trunk=joint"):
        model.score(pair.model_inputs())

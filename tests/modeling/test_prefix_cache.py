"""Scores with cached prefixes are those of the model without a cache, whatever is in the cache."""

from collections.abc import Callable

import pytest
import torch

from equipoise.data.batches import Slate, build_batch
from equipoise.modeling.cached_scorer import CachedScorer, TokenSlate
from equipoise.modeling.model import SlateModel
from equipoise.modeling.prefix_cache import PrefixCache, PrefixState

KINDS = [
    ("llama", "last"),
    ("gpt2", "last"),
    pytest.param("qwen3", "last", marks=pytest.mark.slow),
    ("bert", "last"),
    ("bert", "mean"),
    pytest.param("roberta", "last", marks=pytest.mark.slow),
]
SHAPES = [(9, [3, 5, 2]), (4, [6]), (9, [4, 4, 4, 1, 2]), (1, [2, 7])]


@pytest.fixture
def slates(make_slate: Callable[..., Slate]) -> list[Slate]:
    return [make_slate(seed, lengths, prefix=prefix) for seed, (prefix, lengths) in enumerate(SHAPES)]


def tokens(slates: list[Slate]) -> list[TokenSlate]:
    return [TokenSlate(slate.prefix, slate.candidates) for slate in slates]


def assert_scores(model: SlateModel, slates: list[Slate], found: dict[str, torch.Tensor]) -> None:
    with torch.inference_mode():
        expected = model.score(build_batch(slates, 4096, 0).model_inputs())
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("most", [pytest.param(1, marks=pytest.mark.slow), 9, 1000])
@pytest.mark.parametrize("scope", ["all", "candidates"])
@pytest.mark.parametrize(("arch", "pooling"), KINDS)
def test_hits_misses_and_both_together(
    arch: str, pooling: str, scope: str, most: int, make_model: Callable[..., SlateModel], slates: list[Slate]
) -> None:
    model = make_model(arch, scope=scope, pooling=pooling, listwise=("diversity", "fairness"))
    cache = PrefixCache(1 << 24)
    scorer = CachedScorer(model, cache, most)
    assert_scores(model, slates[:2], scorer.score(tokens(slates[:2])))
    assert (cache.hits, cache.misses) == (0, 2)
    assert_scores(model, slates, scorer.score(tokens(slates)))
    assert (cache.hits, cache.misses) == (2, 4)
    order = [slates[n] for n in (3, 1, 0, 2)]
    assert_scores(model, order, scorer.score(tokens(order)))
    assert (cache.hits, cache.misses) == (6, 4)
    assert_scores(model, slates[2:3], scorer.score(tokens(slates[2:3])))


@pytest.mark.parametrize("scope", ["all", "candidates"])
@pytest.mark.parametrize("arch", ["llama", "bert"])
def test_evictions_and_a_cache_that_is_off(
    arch: str, scope: str, make_model: Callable[..., SlateModel], slates: list[Slate]
) -> None:
    model = make_model(arch, scope=scope)
    whole = PrefixCache(1 << 24)
    CachedScorer(model, whole, 1000).score(tokens(slates))
    for most_bytes in (0, whole.bytes // 2, whole.bytes):
        cache = PrefixCache(most_bytes)
        scorer = CachedScorer(model, cache, 1000)
        for some in (slates, slates[1:3], slates[::-1], slates[:1]):
            assert_scores(model, some, scorer.score(tokens(some)))
            assert cache.bytes <= most_bytes
        assert (len(cache) == 0) == (most_bytes == 0)
        assert (cache.hits > 0) == (most_bytes > 0)


def test_only_unknown_prefixes_are_encoded_and_each_once(
    make_model: Callable[..., SlateModel], slates: list[Slate], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("bert")
    scorer = CachedScorer(model, PrefixCache(1 << 24), 1000)
    passes: list[int] = []
    encode = model.backbone.encode

    def counting(ids: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        passes.append(ids.numel())
        return encode(ids, *args, **kwargs)

    monkeypatch.setattr(model.backbone, "encode", counting)
    candidates = [sum(lengths) for _, lengths in SHAPES]
    scorer.score(tokens([slates[0], slates[0], slates[1]]))
    assert passes == [9 + 4, 2 * candidates[0] + candidates[1]]
    passes.clear()
    scorer.score(tokens(slates))
    assert passes == [9 + 1, sum(candidates)]
    passes.clear()
    scorer.score(tokens(slates))
    assert passes == [sum(candidates)]


def test_a_large_request_among_small_ones_passes_in_pieces(
    make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("llama", scope="candidates")
    slates = [make_slate(1, [3] * 40, prefix=7), make_slate(2, [2], prefix=5), make_slate(3, [4] * 9, prefix=7)]
    most = 0
    encode = model.backbone.encode

    def counting(ids: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        nonlocal most
        most = max(most, ids.numel())
        return encode(ids, *args, **kwargs)

    monkeypatch.setattr(model.backbone, "encode", counting)
    found = CachedScorer(model, PrefixCache(1 << 24), 20).score(tokens(slates))
    assert most == 20
    monkeypatch.undo()
    assert_scores(model, slates, found)


def test_no_gradient_and_no_padding_is_kept(make_model: Callable[..., SlateModel], slates: list[Slate]) -> None:
    model = make_model("llama")
    cache = PrefixCache(1 << 24)
    found = CachedScorer(model, cache, 1000).score(tokens(slates))
    assert not any(value.requires_grad for value in found.values())
    state = cache.get(PrefixCache.key(slates[3].prefix))
    assert state is not None
    kept = [x for stage in state.stages for pair in stage.values() for x in pair]
    assert {x.shape[1] for x in kept} == {1}  # the one token of its prefix
    assert state.size == sum(x.untyped_storage().nbytes() for x in kept)
    # 2 trunk layers, and 2 upper ones for each of three objectives; keys and values of 2 heads of 8 float32.
    assert state.size == (2 + 3 * 2) * 2 * 2 * 8 * 4


def state_of(size: int) -> PrefixState:
    return PrefixState((), size)


def test_the_least_recently_used_goes_first() -> None:
    cache = PrefixCache(100)
    a, b, c, d = (PrefixCache.key([number]) for number in range(4))
    cache.put(a, state_of(40))
    cache.put(b, state_of(40))
    assert cache.get(a) is not None
    cache.put(c, state_of(30))
    assert cache.get(b) is None
    assert cache.bytes == 70
    cache.put(d, state_of(101))  # too large for any room
    assert cache.get(d) is None
    assert cache.get(a) is not None
    cache.put(a, state_of(10))
    assert cache.bytes == 40
    cache.clear()
    assert (cache.bytes, len(cache), cache.get(a)) == (0, 0, None)


def test_keys_tell_prefixes_apart() -> None:
    assert len({PrefixCache.key(ids) for ids in ([1], [1, 1], [256], [1, 0], [0, 1])}) == 5

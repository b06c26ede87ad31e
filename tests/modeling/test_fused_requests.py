"""Requests by fused kernels are scored as by the stock layers, whatever is in the cache."""

from collections.abc import Callable

import pytest
import torch

from equipoise.data.batches import Slate
from equipoise.modeling.cached_scorer import CachedScorer, TokenSlate
from equipoise.modeling.folded import fold_shared
from equipoise.modeling.fused.requests import FusedScorer
from equipoise.modeling.model import SlateModel
from equipoise.modeling.prefix_cache import PrefixCache

SHAPES = [(9, [3, 5, 2]), (4, [6]), (9, [4, 4, 4, 1, 2]), (1, [2, 7])]


@pytest.mark.parametrize("most", [1, 9, 1000])
@pytest.mark.parametrize("trunk", ["joint", "apart"])
@pytest.mark.parametrize("scope", ["all", "candidates"])
@pytest.mark.parametrize("arch", ["llama", "qwen3", "bert", "roberta", "modernbert"])
def test_hits_and_misses_score_as_the_stock_layers(
    arch: str, scope: str, trunk: str, most: int, make_model: Callable[..., SlateModel],
    make_slate: Callable[..., Slate],
) -> None:  # fmt: skip
    made = [make_slate(seed, lengths, prefix=prefix) for seed, (prefix, lengths) in enumerate(SHAPES)]
    slates = [TokenSlate(slate.prefix, slate.candidates) for slate in made]
    slates.append(TokenSlate(slates[0].prefix, [slates[1].candidates[0], slates[0].candidates[0]]))
    plain, fused = (make_model(arch, scope=scope, trunk=trunk).double() for _ in range(2))
    fold_shared(fused)  # as servers do
    fused.use_fused()
    expected = CachedScorer(plain, PrefixCache(0), 1000)
    scorer = FusedScorer(fused, PrefixCache(1 << 24), most)
    for asked in (slates[:2], slates, slates[2:], slates[:1]):
        for pointwise in (False, True):
            truth = expected.score(asked, pointwise)
            found = scorer.score(asked, pointwise)
            assert found.keys() == truth.keys()
            for name, value in truth.items():
                torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)
    assert (scorer.cache.hits, scorer.cache.misses) == (2 * 2 + 2 * 5 + 2 * 3 + 2 - 4, 4)
    assert (scorer.cache.item_misses > 0) == (trunk == "apart")

from collections.abc import Callable

import numpy as np
import pytest
import torch

from equipoise.configs.schema import BackboneConfig, LoraConfig
from equipoise.data.batches import Slate, build_batch
from equipoise.data.features import FeatureColumns, IndexedLevels
from equipoise.modeling.cached_scorer import CachedScorer, TokenSlate
from equipoise.modeling.heads import FeatureResponse, HeadInputs, PointHead
from equipoise.modeling.model import ModelSpec, SlateModel, build_model
from equipoise.modeling.prefix_cache import PrefixCache


@pytest.fixture(scope="module")
def model_of(tiny_backbone: Callable[..., BackboneConfig]) -> Callable[..., SlateModel]:
    def build(arch: str, random: bool = True, scope: str = "candidates") -> SlateModel:
        lora = LoraConfig(rank=4, alpha=8, scope=scope)
        names = FeatureColumns(("price",), ("kind=few", "kind=many"), ("item_id=i1",))
        model = build_model(
            ModelSpec(tiny_backbone(arch), lora, {"ctr": 1, "cvr": 2}, ("diversity",), {"ctr": -1.0}, 3, features=names)
        )
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if random and (".lora_B." in name or name.startswith("heads.")):
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
        return model.eval()

    return build


def slates_with(make_slate: Callable[..., Slate], scale: float = 1.0) -> list[Slate]:
    rng = np.random.default_rng(2)
    slates = [make_slate(3, [3, 5, 4]), make_slate(4, [2, 6], row=1)]
    return [
        Slate(**{**vars(s), "features": scale * rng.normal(size=(len(s.candidates), 4)).astype(np.float32)})
        for s in slates
    ]


def columns(numbers: int = 0, categories: int = 0, levels: int = 0) -> FeatureColumns:
    sizes = {"n": numbers, "y": categories, "w": levels}
    return FeatureColumns(*(tuple(f"{name}{index}" for index in range(size)) for name, size in sizes.items()))


def beside(features: torch.Tensor) -> HeadInputs:
    return HeadInputs(torch.arange(len(features))[None], len(features), features)


def test_the_response_is_zero_at_first_and_the_formula_afterwards() -> None:
    torch.manual_seed(0)
    head, plain = PointHead(16, 2, columns(3, 2)), PointHead(16, 2)
    plain.score.load_state_dict(head.score.state_dict())
    pooled, features = torch.randn(5, 16), torch.randn(5, 5)
    torch.testing.assert_close(head(pooled, beside(features)), plain(pooled), rtol=0, atol=0)
    response = head.response
    assert isinstance(response, FeatureResponse) and response.cross is not None
    torch.nn.init.normal_(response.out.weight)
    torch.nn.init.normal_(response.cross.weight)
    slopes = torch.nn.functional.gelu(pooled @ response.enter.weight.T + response.enter.bias) @ response.out.weight.T
    x, y = features[:, :3], features[:, 3:]
    own = 2.0 * y @ response.cross.weight.T  # of each candidate's categories: three slopes and a level
    expected = plain(pooled)
    expected[:, 0] += (slopes * x).sum(1) + (own[:, :3] * x).sum(1) + own[:, 3]
    torch.testing.assert_close(head(pooled, beside(features)), expected)
    assert set(plain.state_dict()) == {"score.weight"}


def test_a_category_without_slopes_adds_its_level_and_no_slope() -> None:
    torch.manual_seed(1)
    head = PointHead(16, 1, columns(1, 1, 2))
    assert head.get_parameter("response.level.weight").shape == (1, 2)
    pooled, features = torch.randn(2, 16), torch.tensor([[0.5, 0.3, 0.7, -0.3], [-1.5, 0.3, -0.3, 0.7]])
    before = head(pooled, beside(features))
    with torch.no_grad():
        head.get_parameter("response.level.weight").copy_(torch.tensor([[1.0, -2.0]]))
    torch.testing.assert_close(head(pooled, beside(features)) - before, 2.0 * torch.tensor([[1.3], [-1.7]]))
    only = PointHead(16, 1, columns(levels=2))
    assert set(only.state_dict()) == {"score.weight", "response.level.weight"}
    torch.testing.assert_close(only(pooled, beside(features[:, 2:])), only.score(pooled))


def test_categories_alone_add_a_level_and_need_no_hidden_layer() -> None:
    head = PointHead(16, 1, columns(categories=2))
    assert set(head.state_dict()) == {"score.weight", "response.cross.weight"}
    pooled, features = torch.randn(3, 16), torch.tensor([[0.4, -0.4], [-0.6, 0.6], [0.0, 0.0]])
    before = head(pooled, beside(features))
    with torch.no_grad():
        head.get_parameter("response.cross.weight").copy_(torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(head(pooled, beside(features)) - before, torch.tensor([[0.8], [-1.2], [0.0]]))


@pytest.mark.parametrize("arch", ["llama", "bert"])
def test_the_first_scores_do_not_depend_on_features(model_of: Callable, make_slate: Callable, arch: str) -> None:
    model = model_of(arch, random=False)
    one, other = (
        model.score(build_batch(slates_with(make_slate, scale), 96, 0).model_inputs()) for scale in (1.0, 9.0)
    )
    torch.testing.assert_close(one["ctr"], other["ctr"], rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"features price, kind, item_id of 5 candidates, but was given None"):
        model.score(build_batch([make_slate(3, [3, 5]), make_slate(4, [2, 6, 3])], 96, 0).model_inputs())


@pytest.mark.parametrize("arch", ["llama", "bert"])
@pytest.mark.parametrize("scope", ["all", "candidates"])
def test_packed_chunked_cached_and_masked_scores_read_the_same_features(
    model_of: Callable, make_slate: Callable, arch: str, scope: str
) -> None:
    model, slates = model_of(arch, scope=scope), slates_with(make_slate)
    inputs = build_batch(slates, 96, 0).model_inputs()
    with torch.no_grad():
        whole = model.score(inputs)
        away = model.score(build_batch(slates_with(make_slate, 3.0), 96, 0).model_inputs())
        chunked = model.score(inputs, chunk_tokens=5)
        with model.backbone.using("sdpa"):
            masked = model.score(inputs, chunk_tokens=5)
    assert (whole["ctr"] - away["ctr"]).abs().min() > 1e-3
    scorer = CachedScorer(model, PrefixCache(1 << 20), 5)
    tokens = [TokenSlate(s.prefix, s.candidates, s.features) for s in slates]
    cached, again = scorer.score(tokens), scorer.score(tokens)
    alone = scorer.score(tokens, pointwise=True)
    assert set(alone) == {"ctr", "cvr", "cvr.1"}
    for name in ("ctr", "cvr", "cvr.1", "diversity"):
        for found in (chunked, cached, again, masked):
            torch.testing.assert_close(found[name], whole[name], rtol=1e-4, atol=2e-5)
        if name in alone:
            torch.testing.assert_close(alone[name], whole[name], rtol=1e-4, atol=2e-5)


def test_gradients_reach_the_response(model_of: Callable, make_slate: Callable) -> None:
    model = model_of("bert")
    model.score(build_batch(slates_with(make_slate), 96, 0).model_inputs())["cvr"].sum().backward()
    for name, parameter in model.heads["cvr"].named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_a_batch_has_features_for_all_slates_or_for_none(make_slate: Callable) -> None:
    told = slates_with(make_slate)
    with pytest.raises(ValueError, match="some slates"):
        build_batch([told[0], make_slate(4, [2, 6], row=1)], 96, 0)
    batch = build_batch(told, 96, 0).to("cpu")
    assert batch.features is not None and batch.features.shape == (5, 4)
    np.testing.assert_array_equal(batch.features[3:].numpy(), told[1].features)


def test_levels_by_number_add_their_weight_and_nothing_where_unknown() -> None:
    torch.manual_seed(0)
    response = FeatureResponse(8, 1, 0, 0, [IndexedLevels("seller", 5, 10.0), IndexedLevels("item", 3, 2.0)])
    pooled = torch.randn(4, 8)
    features = torch.tensor([[0.5, 4, 0], [0.5, -1, 2], [0.5, 0, -1], [0.5, -1, -1]])
    assert not response(pooled, features).any()
    for table in response.indexed:
        torch.nn.init.normal_(table.weight)
    sellers, items = (table.weight[:, 0] for table in response.indexed)
    expected = torch.stack([10 * sellers[4] + 2 * items[0], 2 * items[2], 10 * sellers[0], torch.tensor(0.0)])
    torch.testing.assert_close(response(pooled, features), expected)
    response(pooled, features).sum().backward()
    assert response.indexed[0].weight.grad[:, 0].tolist() == [10.0, 0.0, 0.0, 0.0, 10.0]

"""What a run configuration accepts, what it fills in, and what it says to do where it refuses."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from equipoise.configs.objectives import ObjectivesConfig
from equipoise.configs.schema import BalancingConfig, RunConfig, SplitConfig


def settings(**sections: Any) -> dict[str, Any]:
    """The least that a run needs, and `sections` on top."""
    return {
        "name": "run",
        "output": "runs",
        "data": {"folder": "prepared", "source": "complete_journey"},
        "backbone": {"path": "some/base"},
        "objectives": {"ctr": None},
        **sections,
    }


def refused(*parts: str, **sections: Any) -> None:
    """The settings are refused, in words that hold all of `parts`."""
    with pytest.raises(ValidationError) as caught:
        RunConfig.model_validate(settings(**sections))
    message = str(caught.value)
    for part in parts:
        assert part in message, message


def test_the_least_config_is_complete() -> None:
    config = RunConfig.model_validate(settings())
    assert config.tokens.max_row >= config.tokens.max_prefix + config.tokens.max_candidate
    assert config.balancing.method == "pcgrad"
    assert list(config.objectives.active()) == ["ctr"]


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("trian", {}),
        ("train", {"learning_rate": 1}),
        ("data", {"folder": "x", "source": "complete_journey", "split": {"share": 0.1}}),
        ("objectives", {"ctr": {"wieght": 2}}),
        ("objectives", {"ctr": None, "cdr": None}),
        ("backbone", {"path": "x", "lora": 1}),
        ("balancing", {"methods": "mgda"}),
    ],
)
def test_unknown_keys_are_refused_at_every_depth(section: str, value: dict[str, Any]) -> None:
    refused("Extra inputs are not permitted", **{section: value})


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("train", {"lr": 0}),
        ("train", {"batch_size": 0}),
        ("train", {"warmup": 1.0}),
        ("train", {"min_lr_ratio": 1.1}),
        ("seed", -1),
        ("lora", {"dropout": 1.0}),
        ("tokens", {"max_prefix": 2}),  # there must be room between the special tokens
        ("tokens", {"max_candidate": 1}),
        ("objectives", {"ctr": {"weight": 0}}),
        ("objectives", {"ctr": None, "cvr": {"estimator": "mean"}}),
        ("objectives", {"ctr": None, "cvr": {"min_propensity": 0}}),
        ("objectives", {"ctr": None, "fairness": {"momentum": 1.0}}),
        ("objectives", {"ctr": True}),
        ("balancing", {"method": "magic"}),
        ("data", {"folder": "x", "source": "complete_journey", "memory_limit": "much"}),
        ("data", {"folder": "x", "source": "complete_journey", "memory_limit": "1GB'; CREATE TABLE t (x INT); --"}),
    ],
)
def test_impossible_values_are_refused(section: str, value: Any) -> None:
    refused(section, **{section: value})


# -- objectives


def test_an_empty_objective_means_its_defaults_and_an_absent_one_none() -> None:
    objectives = ObjectivesConfig.model_validate({"ctr": None, "cvr": None, "fairness": {"target": "merit"}})
    assert list(objectives.active()) == ["ctr", "cvr", "fairness"]
    assert objectives.cvr is not None
    assert objectives.cvr.estimator == "esmm"
    assert objectives.fairness is not None
    assert (objectives.fairness.target, objectives.fairness.attribute) == ("merit", "provider")
    assert objectives.diversity is None
    assert ObjectivesConfig.model_validate({"ctr": {}, "cvr": False}).cvr is None  # switched off by an override


def test_the_order_of_objectives_is_fixed() -> None:
    names = ["coverage", "cvr", "diversity", "ctr", "fairness"]
    assert list(ObjectivesConfig.model_validate(dict.fromkeys(names)).active()) == [
        "ctr",
        "cvr",
        "diversity",
        "fairness",
        "coverage",
    ]


def test_ctr_is_what_all_others_build_on() -> None:
    refused("at least one objective is needed: add objectives.ctr", objectives={})
    refused("cvr, coverage build on pCTR: add objectives.ctr", objectives={"cvr": None, "coverage": None})
    refused("add objectives.ctr", objectives={"ctr": False})


@pytest.mark.parametrize("mode", ["json", "python"])
def test_a_saved_config_is_read_back_as_it_was(mode: str) -> None:
    config = RunConfig.model_validate(
        settings(
            objectives={"ctr": {"weight": 2.0}, "diversity": None},
            balancing={"method": "weighted"},
            evaluate={"omegas": [{}, {"diversity": 0.5}]},
        )
    )
    again = RunConfig.model_validate(config.model_dump(mode=mode))
    assert again == config
    assert list(again.objectives.active()) == ["ctr", "diversity"]  # the absent ones stay absent
    assert again.balancing.normalize == "none"
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_objectives_do_not_change_after_validation() -> None:
    config = RunConfig.model_validate(settings())
    with pytest.raises(ValidationError, match="frozen"):
        config.objectives.cvr = None
    with pytest.raises(ValidationError):
        config.train.lr = -1.0  # other sections check what is assigned


# -- balancing


@pytest.mark.parametrize(("method", "normalize"), [("weighted", "none"), ("mgda", "l2"), ("pcgrad", "l2")])
def test_normalize_is_resolved_by_the_method(method: str, normalize: str) -> None:
    assert BalancingConfig(method=method).normalize == normalize
    assert BalancingConfig(method=method, normalize="loss").normalize == "loss"
    assert BalancingConfig(method=method, normalize="none").normalize == "none"


# -- settings that meet


def test_a_row_must_hold_a_prefix_and_a_candidate() -> None:
    tokens = {"max_prefix": 100, "max_candidate": 30, "max_row": 129}
    refused("tokens.max_row", "raise it to at least 130", "lower tokens.max_prefix", tokens=tokens)
    RunConfig.model_validate(settings(tokens={**tokens, "max_row": 130}))


def test_a_bfloat16_base_needs_bf16_training() -> None:
    backbone = {"path": "x", "dtype": "bfloat16"}
    refused("needs train.precision: bf16, or set backbone.dtype: float32", backbone=backbone)
    RunConfig.model_validate(settings(backbone=backbone, train={"precision": "bf16"}))


def test_a_baseline_needs_its_field() -> None:
    data = {"folder": "x", "source": "complete_journey", "fields": ["price"]}
    refused("'rank'", "add it to data.fields", data=data, evaluate={"field_baselines": ["price", "rank"]})
    RunConfig.model_validate(settings(data=data, evaluate={"field_baselines": ["price"]}))


@pytest.mark.parametrize("name", ["diversity", "ctr", "novelty"])
def test_an_operating_point_names_list_wise_objectives_of_the_run(name: str) -> None:
    refused(
        f"evaluate.omegas names '{name}'", "add it to objectives or drop it", evaluate={"omegas": [{}, {name: 1.0}]}
    )


def test_a_source_has_its_tables_or_brings_them() -> None:
    tables = {"impressions": "a.parquet", "items": "b.parquet"}
    refused("source: tables needs data.tables.impressions", data={"folder": "x"})
    refused(
        "drop data.tables or set source: tables", data={"folder": "x", "source": "complete_journey", "tables": tables}
    )
    config = RunConfig.model_validate(settings(data={"folder": "x", "tables": tables}))
    assert config.data.tables is not None
    assert config.data.tables.items == Path("b.parquet")


def test_item_texts_are_never_empty() -> None:
    refused(
        "needs at least one piece, such as '{title}'",
        data={"folder": "x", "source": "complete_journey", "prompt": {"item": []}},
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"valid_from": "2024-01-01"}, "give both or neither"),
        ({"column": "split", "valid_from": "2024-01-01", "test_from": "2024-02-01"}, "drop one of them"),
        ({"valid_from": "2024-02-01", "test_from": "2024-02-01"}, "valid_from must be earlier than test_from"),
        ({"valid_from": "2024-01-01", "test_from": "2024-02-01T00:00:00Z"}, "both have a time zone"),
        ({"valid_fraction": 0.5, "test_fraction": 0.5}, "must be below 1: lower one of them"),
    ],
)
def test_there_is_one_way_to_split(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SplitConfig.model_validate(values)


# -- one measure of a batch


def test_a_batch_is_counted_in_one_measure() -> None:
    train = RunConfig.model_validate(settings()).train
    assert (train.batch_size, train.max_tokens) == (None, "auto")
    train = RunConfig.model_validate(settings(train={"batch_size": 4})).train
    assert (train.batch_size, train.max_tokens) == (4, None)
    train = RunConfig.model_validate(settings(train={"max_tokens": 100, "batch_size": None})).train
    assert (train.batch_size, train.max_tokens) == (None, 100)
    refused("batch_size and max_tokens exclude each other: set one of them to null",
            train={"batch_size": 4, "max_tokens": 100})  # fmt: skip


@pytest.mark.parametrize("train", [{}, {"batch_size": 4}, {"max_tokens": 100}])
def test_the_measure_is_saved_as_it_was_resolved(train: dict[str, Any]) -> None:
    config = RunConfig.model_validate(settings(train=train))
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config

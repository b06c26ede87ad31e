"""Objectives by config: columns, chains, entry points, and what is refused."""

import sys
from importlib import invalidate_caches
from pathlib import Path

import pytest
from pydantic import ValidationError

from equipoise.common.errors import UserError
from equipoise.configs.load import explain
from equipoise.configs.objectives import ObjectivesConfig, known_spec
from equipoise.configs.schema import RunConfig

BASKET = {"kind": "binary", "label": "add_to_cart", "given": "click"}
MARGIN = {"kind": "value", "label": "margin", "given": "conversion"}


def read(**sections: object) -> ObjectivesConfig:
    return ObjectivesConfig.model_validate({"ctr": {}, **sections})


def test_columns_are_objectives_in_the_order_of_the_towers() -> None:
    config = read(
        deep={**BASKET, "label": "paid", "given": "basket"}, diversity={}, cvr={}, basket=BASKET, margin=MARGIN
    )
    assert list(config.active()) == ["ctr", "cvr", "basket", "deep", "margin", "diversity"]
    specs = config.specs()
    assert (specs["basket"].given, specs["margin"].given, specs["deep"].given) == ("ctr", "cvr", "basket")
    assert specs["basket"].meaning == "basket = P(add_to_cart | click)"
    assert config.of_kind("listwise") == ["diversity"]


def test_a_saved_config_reads_back_the_same() -> None:
    config = read(cvr={}, basket={**BASKET, "weight": 2.0}, margin=MARGIN)
    saved = config.model_dump(mode="json")
    assert ObjectivesConfig.model_validate(saved) == config
    assert saved["basket"]["weight"] == 2.0 and "diversity" not in saved


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"basket": {**BASKET, "given": "cvr"}}, "basket.given names 'cvr', which is not a binary objective"),
        ({"basket": {**BASKET, "given": "basket"}}, "which is not a binary objective of this run"),
        ({"a": {**BASKET, "given": "b"}, "b": {**BASKET, "given": "a"}}, "leads back to itself"),
        ({"basket": {"kind": "binry", "label": "x"}}, "write binary, value, count"),
        ({"basket": {"kind": "binary", "lable": "x"}}, "did you mean 'label'"),
        ({"value": BASKET}, "cannot be the name of an objective"),
        ({"my.own": BASKET}, "cannot be the name of an objective"),
        ({"basket": {**BASKET, "weight": -1}}, "greater than 0"),
    ],
)
def test_what_cannot_be_is_refused(sections: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError) as error:
        read(**sections)
    assert words in explain(error.value, ObjectivesConfig)


def test_an_unknown_name_is_told_the_nearest_and_how_to_declare_one() -> None:
    with pytest.raises(ValidationError) as error:
        RunConfig.model_validate({"objectives": {"ctr": {}, "diversty": {}}})
    told = explain(error.value, RunConfig)
    assert "'objectives.diversty': did you mean 'diversity'?" in told and "kind: binary" in told


SPEC = """
from equipoise.configs.objective_spec import ObjectiveSpec
from equipoise.configs.objectives import ListwiseConfig

class Options(ListwiseConfig):
    power: float = 1.0

SPEC = ObjectiveSpec("{name}", "listwise", Options, "nowhere:Loss", "what it means")
"""


def install(folder: Path, package: str, point: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with one entry point, on the path."""
    site = folder / package
    about = site / f"{package}-1.0.dist-info"
    about.mkdir(parents=True)
    (site / f"{package}.py").write_text(text)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[equipoise.objectives]\n{point}\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, package, raising=False)
    invalidate_caches()


def test_an_installed_package_brings_an_objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "brings_rare", "rare = brings_rare:SPEC", SPEC.format(name="rare"), monkeypatch)
    config = read(rare={"power": 2.0})
    assert config.active()["rare"].power == 2.0 and config.of_kind("listwise") == ["rare"]
    assert ObjectivesConfig.model_validate(config.model_dump(mode="json")) == config
    assert known_spec("rare", {}) is not None
    with pytest.raises(ValidationError) as error:
        read(rare={"powre": 2.0})
    assert "did you mean 'power'" in explain(error.value, ObjectivesConfig)
    with pytest.raises(UserError, match="loss nowhere:Loss cannot be imported"):
        config.specs()["rare"].loss_class()


def test_a_broken_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "breaks_it", "broken_one = breaks_it:SPEC", "raise RuntimeError('no')", monkeypatch)
    install(tmp_path, "no_spec", "odd_one = no_spec:SPEC", "SPEC = 3", monkeypatch)
    install(tmp_path, "other_name", "third_one = other_name:SPEC", SPEC.format(name="else"), monkeypatch)
    for name, words in (
        ("broken_one", "cannot be imported"),
        ("odd_one", "not an ObjectiveSpec"),
        ("third_one", "'else'"),
    ):
        with pytest.raises(UserError, match=words):
            read(**{name: {}})


def test_two_packages_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("first_twin", "second_twin"):
        install(tmp_path, package, f"twin = {package}:SPEC", SPEC.format(name="twin"), monkeypatch)
    with pytest.raises(UserError, match="two packages bring an objective 'twin'"):
        read(twin={})

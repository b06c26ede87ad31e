"""What a finished run knows of lists: prices by hand, adjustments that help or harm, and files."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from equipoise.common.errors import UserError
from equipoise.configs.load import read_run_config, save_config
from equipoise.configs.objectives import ObjectivesConfig
from equipoise.configs.schema import RunConfig
from equipoise.modeling.adapter_store import TENSORS
from equipoise.train import list_fit
from equipoise.train.list_fit import (
    FILE_NAME,
    check_lists,
    fit_lists,
    in_begun_form,
    list_rule,
    run_rule,
    sentences,
    write_lists,
)
from equipoise.train.objectives.registry import build_objectives

REQUESTS, SIZE = 400, 12


def config_of(folder: Path, **objectives: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "run",
            "output": folder,
            "data": {"folder": folder, "tables": {"impressions": "none.csv", "items": "none.csv"}},
            "backbone": {"path": "none", "split": 1},
            "objectives": {"ctr": {}, **objectives},
        }
    )


def catalogue() -> SimpleNamespace:
    """Twelve items: four categories, and two providers."""
    columns = {"category": np.arange(SIZE) % 4, "provider": (np.arange(SIZE) >= 9).astype(np.int64)}

    def codes(name: str) -> tuple[np.ndarray, list[str]]:
        return columns[name], [f"{name}{value}" for value in range(int(columns[name].max()) + 1)]

    return SimpleNamespace(items=SimpleNamespace(codes=codes))


def scored(seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Requests with all items; clicks by chances that are the relevance, so that the rule knows the truth."""
    rng = np.random.default_rng(seed)
    chance = rng.beta(0.5, 4.0, (REQUESTS, SIZE))
    chance[:, 9:] *= 0.3  # the second provider's items are rarely wanted
    click = (rng.random(chance.shape) < chance).astype(np.int8)
    scores = {
        "row": np.repeat(np.arange(REQUESTS), SIZE),
        "item": np.tile(np.arange(SIZE), REQUESTS),
        "click": click.ravel(),
        "conversion": np.zeros(click.size, np.int8),
    }
    return scores, np.log(chance).ravel()


def test_prices_are_how_weak_groups_are(tmp_path: Path) -> None:
    config = config_of(tmp_path, fairness={"places": 3}, coverage={"attribute": "category", "places": 3})
    scores, relevance = scored()
    scores |= {name: np.zeros(len(relevance)) for name in ("fairness", "coverage")}
    found = fit_lists(config, catalogue(), scores, relevance)
    order = np.argsort(-relevance.reshape(REQUESTS, SIZE), axis=1)[:, :3]
    discount = 1 / np.log2([2, 3, 4])
    weak = sum(d for row in order for d, item in zip(discount, row, strict=True) if item >= 9)
    share = weak / (REQUESTS * discount.sum())
    wanted = 1 - (share / 0.25) / ((1 - share) / 0.75)
    assert found["prices"]["fairness"] == {"provider0": 0.0, "provider1": pytest.approx(wanted, abs=1e-5)}
    assert 0.3 < wanted < 0.95 and set(found["prices"]["coverage"]) == {f"category{n}" for n in range(4)}
    rule = list_rule(config, found["prices"])
    assert rule is not None and rule.places == 3 and rule.terms["fairness"].prices == found["prices"]["fairness"]
    assert not found["learned"]["fairness"]["kept"] and found["learned"]["fairness"]["difference"] == 0


@pytest.mark.parametrize(("strength", "kept"), [(4.0, True), (-4.0, False)])
def test_adjustments_are_kept_where_they_surely_help(tmp_path: Path, strength: float, kept: bool) -> None:
    """A tower that knows which items were clicked is kept, one that has them the wrong way round is not."""
    config = config_of(tmp_path, fairness={"places": 3}, diversity={"attributes": ["category"], "places": 3})
    scores, relevance = scored()
    told = strength * (scores["click"] - 0.2)
    scores |= {"fairness": told, "diversity": told}
    found = fit_lists(config, catalogue(), scores, relevance)["learned"]
    for name in ("fairness", "diversity"):
        low, high = found[name]["interval"]
        assert found[name]["kept"] is kept and (low > 0 if kept else high < 0), name
        assert found[name]["requests"] == REQUESTS
    words = sentences({"learned": found})
    assert len(words) == 2 and all(("are kept" in line) is kept for line in words)


def test_noise_is_not_kept(tmp_path: Path) -> None:
    config = config_of(tmp_path, diversity={"attributes": ["category"], "places": 3})
    scores, relevance = scored()
    scores["diversity"] = np.random.default_rng(5).normal(size=len(relevance))
    assert not fit_lists(config, catalogue(), scores, relevance)["learned"]["diversity"]["kept"]


def test_heads_that_are_not_kept_are_set_to_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {f"heads.{name}.out.weight": torch.ones(1, 4) for name in ("diversity", "fairness")}
    written = {}
    monkeypatch.setattr(list_fit, "read_info", lambda folder: None)
    monkeypatch.setattr(list_fit, "save_adapters", lambda folder, tensors, info: written.update({folder.name: tensors}))
    for name in ("adapters", "best"):
        (tmp_path / name).mkdir()
        list_fit_save(tmp_path / name / TENSORS, tensors)
    learned = {name: {"kept": name == "fairness"} for name in ("diversity", "fairness")}
    write_lists(tmp_path, {"prices": {}, "learned": learned})
    assert set(written) == {"adapters", "best"}
    for each in written.values():
        assert not each["heads.diversity.out.weight"].any() and each["heads.fairness.out.weight"].all()
    assert json.loads((tmp_path / FILE_NAME).read_text())["learned"] == learned
    assert load_file(tmp_path / "best" / TENSORS)[
        "heads.diversity.out.weight"
    ].all()  # save_adapters is a stand-in here


def list_fit_save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, path)


def test_a_run_without_its_lists_is_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path, diversity={})
    with pytest.raises(UserError, match=r"lists\.json is missing or broken"):
        run_rule(config, tmp_path)
    parallel = config_of(tmp_path, diversity={"form": "parallel"}, fairness={"form": "parallel"})
    assert run_rule(parallel, tmp_path) is None and list_rule(parallel) is None
    mixed = list_rule(config_of(tmp_path, diversity={}, fairness={"form": "parallel"}))
    assert mixed is not None and {name: term.kind for name, term in mixed.terms.items()} == {
        "diversity": "spread", "fairness": "adjust",
    }  # fmt: skip


def test_runs_of_before_stay_parallel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tmp_path, diversity={}, fairness={"form": "parallel"})
    save_config(config, tmp_path / "config.yaml")
    assert read_run_config(tmp_path) == config
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(re.sub(" +form: greedy\n", "", text))  # as before there were forms
    read = read_run_config(tmp_path).objectives
    assert read.diversity is not None and read.diversity.form == "parallel"
    assert in_begun_form(config) is config  # without a checkpoint there is nothing to go on with
    monkeypatch.setattr(list_fit, "checkpoints", lambda folder: [folder])
    goes_on = in_begun_form(config).objectives
    assert goes_on.diversity is not None and goes_on.diversity.form == "parallel"


def test_places_are_those_of_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"places differ \(diversity 5, fairness 10\)"):
        config_of(tmp_path, diversity={"places": 5}, fairness={})


def test_what_cannot_learn_is_refused() -> None:
    """One candidate per request, or candidates that are alike in all that the objective reads."""

    def slates(sizes: list[int], items: list[int]) -> Any:
        tokens = SimpleNamespace(first=np.cumsum([0, *sizes]), item=np.array(items))
        return SimpleNamespace(tokens=tokens, items=catalogue().items)

    config = ObjectivesConfig.model_validate({"ctr": {}, "fairness": {}, "diversity": {"attributes": ["category"]}})
    objectives = build_objectives(config)
    check_lists(objectives, slates([2, 1], [0, 9, 1]))
    with pytest.raises(UserError, match=r"objectives\.diversity: every training request has one candidate"):
        check_lists(objectives, slates([1, 1], [0, 9]))
    with pytest.raises(UserError, match=r"objectives\.fairness: all candidates .* same provider \('provider0'\)"):
        check_lists(objectives, slates([2], [0, 1]))
    with pytest.raises(UserError, match=r"objectives\.diversity: all candidates .* same category"):
        check_lists(objectives, slates([2], [0, 4]))
    check_lists(build_objectives(ObjectivesConfig.model_validate({"ctr": {}})), slates([1], [0]))

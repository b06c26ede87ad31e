"""What `auto` means on a machine, and scores in bfloat16 beside those in float32."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equipoise.common.errors import UserError
from equipoise.configs.schema import RunConfig
from equipoise.data.batches import Slate, build_batch
from equipoise.modeling import precision
from equipoise.modeling.model import SlateModel
from equipoise.modeling.precision import computing, multiplies_in_bf16, narrow_base, settle_precision
from equipoise.serving.recommender import Recommender
from equipoise.train.accelerate_setup import make_accelerator


def config_of(tmp_path: Path, wanted: str, dtype: str, **backbone: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "x",
            "output": str(tmp_path / "run"),
            "data": {"folder": str(tmp_path), "source": "complete_journey", "prompt": {"item": ["{title}"]}},
            "backbone": {"path": "base", "dtype": dtype, **backbone},
            "objectives": {"ctr": {}},
            "train": {"precision": wanted},
        }
    )


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [({}, False), ({"avx512_f": True}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)],
)
def test_a_cpu_multiplies_in_bf16_by_its_own_instructions(
    instructions: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    assert multiplies_in_bf16("cpu") is expected


@pytest.mark.parametrize("has", [True, False])
def test_auto_follows_the_machine_and_a_begun_run(has: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "multiplies_in_bf16", lambda device: has)
    here = settle_precision(config_of(tmp_path, "auto", "auto"))
    assert (here.train.precision, here.backbone.dtype) == (("bf16", "bfloat16") if has else ("fp32", "float32"))
    for begun in (config_of(tmp_path, "bf16", "bfloat16"), config_of(tmp_path, "fp32", "float32")):
        goes_on = settle_precision(config_of(tmp_path, "auto", "auto"), begun)
        assert goes_on == begun
    assert settle_precision(config_of(tmp_path, "fp32", "auto")).backbone.dtype == "float32"
    random = settle_precision(config_of(tmp_path, "bf16", "auto", init="random"))
    assert random.backbone.dtype == "float32", "the vectors of frozen texts would be of other weights"


@pytest.mark.parametrize("arch", ["bert", "llama"])
def test_a_narrow_base_scores_about_the_same(
    make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate], arch: str
) -> None:
    model = make_model(arch, scope="candidates", pointwise={"ctr": 1, "cvr": 1}, listwise=("diversity",)).eval()
    inputs = build_batch([make_slate(k, [5, 3, 2 + k], prefix=9 + k) for k in range(3)], 1000, 0).model_inputs()
    with torch.inference_mode():
        exact = model.score(inputs)
        narrow_base(model)
        with computing("bf16", torch.device("cpu")):
            found = model.score(inputs)
    assert {parameter.dtype for name, parameter in model.named_parameters() if ".lora_" in name} == {torch.float32}
    assert {each.dtype for each in model.heads.parameters()} == {torch.float32}
    assert next(model.backbone.trunk.parameters()).dtype == torch.bfloat16
    for name, values in exact.items():
        assert found[name].dtype == torch.float32
        scale = float(values.abs().max()) + 1e-3
        torch.testing.assert_close(found[name], values, rtol=0, atol=5e-2 * scale)
    assert not torch.equal(found["ctr"], exact["ctr"]), "nothing was computed in bfloat16"


@pytest.mark.parametrize("arch", ["bert", "llama"])
def test_a_server_in_bf16_ranks_about_as_one_in_fp32(tiny_export: Callable[..., Any], arch: str) -> None:
    folder = tiny_export(arch).folder
    exact, narrow = (Recommender.load(folder, dtype=dtype) for dtype in ("fp32", "bf16"))
    example = exact.examples[0]
    for _ in range(2):  # the second time from the cache of prefixes
        one, other = (
            [scored.probabilities["ctr"] for scored in each.score_prepared([each.prepare(example)])[0].given]
            for each in (exact, narrow)
        )
        np.testing.assert_allclose(other, one, atol=2e-2)
    assert other != one
    assert exact.cache.hits and narrow.cache.hits
    with pytest.raises(UserError, match="dtype is float16: give one of auto, fp32, bf16"):
        Recommender.load(folder, dtype="float16")


def test_jobs_of_one_process_may_differ_in_precision(tmp_path: Path) -> None:
    found = [
        make_accelerator(config_of(tmp_path, wanted, "float32")).mixed_precision for wanted in ("fp32", "bf16", "fp32")
    ]
    assert found == ["no", "bf16", "no"]

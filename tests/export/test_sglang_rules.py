"""Which runs SGLang scores slate by slate."""

from types import SimpleNamespace
from typing import Any

import pytest

from equipoise.export.card_serving import _sglang
from equipoise.export.golden import Prompt
from equipoise.export.sglang_rules import why_not_sglang

QWEN = SimpleNamespace(model_type="qwen3", use_sliding_window=False)
STOCK: dict[str, Any] = {"form": "sequence_classification", "scope": "all", "config": QWEN, "encoder": False}


def test_plain_qwen_classifiers_are_served() -> None:
    assert why_not_sglang(**STOCK) is None
    assert why_not_sglang(**{**STOCK, "config": SimpleNamespace(model_type="qwen2")}) is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"encoder": True}, "no such mask"),
        ({"scope": "candidates"}, "lora.scope: candidates"),
        ({"quantized": True}, "cannot be merged"),
        ({"beside": ["features"]}, "the logit holds features"),
        ({"form": "features"}, "whole slate"),
        ({"config": SimpleNamespace(model_type="llama")}, "at the end of a prompt"),
        ({"config": SimpleNamespace(model_type="gpt2")}, "with qwen2 and qwen3 alone"),
        ({"config": SimpleNamespace(model_type="qwen2", use_sliding_window=True)}, "sliding window"),
    ],
)
def test_others_are_told_why_not(changes: dict[str, Any], why: str) -> None:
    assert why in (why_not_sglang(**{**STOCK, **changes}) or "")


def test_the_card_has_the_flags_and_a_request_of_token_ids() -> None:
    slate = [Prompt(0, "p", "i", "", [1, 2, 3], ids) for ids in ([4, 5], [6], [7])]
    verdicts = {"ctr": {"serves": True, "why_not": None}, "diversity": {"serves": False, "why_not": "it needs a slate"}}
    serving = {"formats": {"merged": {}}, "sglang": verdicts, "objectives": {"ctr": {"logit_offset": -2.5}}}
    card = _sglang(serving, slate)
    assert "--model-path merged/ctr --is-embedding" in card and "--enable-mis --attention-backend flashinfer" in card
    assert '"query": [1, 2, 3], "items": [[4, 5], [6]]' in card
    assert "`logit_offset` (-2.500000 for `ctr`)" in card and "Not run here" in card
    assert "- not for SGLang: `diversity` (it needs a slate)" in card
    assert _sglang({**serving, "formats": {}}, slate) == ""
    none = {"ctr": {"serves": False, "why_not": "lora.scope: candidates; merged weights act on every token"}}
    assert "launch_server" not in _sglang({**serving, "sglang": none}, slate)

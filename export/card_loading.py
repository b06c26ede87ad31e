"""The part of the model card that loads an export's adapters with plain transformers + peft, by code that runs."""

from collections.abc import Mapping
from typing import Any

_LOAD_CLASSIFIER = """\
Probabilities of `{name}`, with a stock sequence classifier (the head travels inside the adapter as `score`):

```python
import json
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

export = Path(".")  # this folder
serving = json.loads((export / "serving.json").read_text("utf-8"))
golden = json.loads((export / "golden.jsonl").read_text("utf-8").splitlines()[0])
base = {base}
model = AutoModelForSequenceClassification.from_pretrained(
    base, revision=serving["base"]["revision"], num_labels=1, dtype=torch.float32
)
model.config.pad_token_id = serving["pad_token_id"]
model = PeftModel.from_pretrained(model, str(export / "{name}")).eval()
with torch.inference_mode():
    logit = model(input_ids=torch.tensor([golden["input_ids"]])).logits[0, 0]
probability = torch.sigmoid(logit + serving["objectives"]["{name}"]["logit_offset"])
print("{name}", logit.item(), golden["logit"]["{name}"], probability.item(), golden["probability"]["{name}"])
```

The classifier reads the last token that is not `pad_token_id`, so batches may be padded on the right with it (it never
ends a prompt; `serving.json` names it). Load the other pointwise objectives in the same way from their folders.
"""

_LOAD_FEATURES = """\
Probabilities of `{name}`: the stock base model, the adapter, and a linear head of one row beside it:

```python
import json
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel

export = Path(".")  # this folder
serving = json.loads((export / "serving.json").read_text("utf-8"))
golden = json.loads((export / "golden.jsonl").read_text("utf-8").splitlines()[0])
base = {base}
model = AutoModel.from_pretrained(
    base, revision=serving["base"]["revision"], dtype=torch.float32, attn_implementation="sdpa"
)
model = PeftModel.from_pretrained(model, str(export / "{name}")).eval()
head = load_file(export / "{name}" / "head.safetensors")
ids, prefix_tokens = torch.tensor([golden["input_ids"]]), golden["prefix_tokens"]
{forward}logit = head["score.weight"][0] @ vector
probability = torch.sigmoid(logit + serving["objectives"]["{name}"]["logit_offset"])
print("{name}", logit.item(), golden["logit"]["{name}"], probability.item(), golden["probability"]["{name}"])
```

{remark}Load the other pointwise objectives in the same way from their folders.
"""

_SCOPED = """\
**These adapters were trained with `lora.scope: candidates`**: from layer {split} on they act on the candidate's tokens
alone, so that a prefix is encoded once for all objectives. A server that applies LoRA to every token (vLLM) gives other
scores; train with `lora.scope: all` for it. `acting` in `check_golden.py`
shows in a few lines of plain torch what to do.

"""

_APART = """\
**They were trained with `backbone.trunk: apart`**: in the layers below {split} a candidate's tokens see that candidate
alone, so that a server may keep what these make of an item. Stock servers show them the prefix and give other scores;
`apart` in `check_golden.py` shows the mask.

"""

_LOAD_BESIDE = """\
{remark}{number} of `{name}`, from within this folder ({beside}`logit` of `check_golden.py` adds up a head's parts):

```python
import json
from pathlib import Path

import torch

from check_golden import load_adapter, logit, number, read_beside, read_head

export = Path(".")  # this folder
serving = json.loads((export / "serving.json").read_text("utf-8"))
golden = json.loads((export / "golden.jsonl").read_text("utf-8").splitlines()[0])
slate = json.loads((export / "golden_slate.json").read_text("utf-8"))
about = serving["objectives"]["{name}"]
model = load_adapter(export, serving, "{name}")
head = read_head(export / about["folder"], about)
with torch.inference_mode():
    read_beside(export, serving, [golden], slate)  # what a logit holds beside the text, if anything
    value = logit(model, serving, "{name}", head, golden)
print("{name}", value, golden["logit"]["{name}"], number(about, value), golden["{word}"]["{name}"])
```

Load the other pointwise objectives in the same way from their folders.
"""

_FORWARD_PREFIX = """\
positions = torch.arange(ids.shape[1])
in_prefix = positions < prefix_tokens
sees = ~in_prefix[:, None] | in_prefix[None, :]  # prefix tokens see the prefix only, the candidate's tokens see all
with torch.inference_mode():
    hidden = model(
        input_ids=ids,
        attention_mask=sees[None, None],
        position_ids=positions[None] + serving["first_position"],
    ).last_hidden_state
vector = {vector}
"""

_VECTORS = {
    "last": "hidden[0, -1]  # the candidate's last token",
    "mean": "hidden[0, prefix_tokens:].mean(0)  # the mean over the candidate's tokens",
}

_FORWARD_CAUSAL = """\
with torch.inference_mode():
    vector = model(input_ids=ids).last_hidden_state[0, -1]  # the candidate's last token
"""

_REMARK_PREFIX = """\
The mask matters: the prefix does not see the candidate, so one prefix can be encoded once for many candidates. The
stock pooler of the base model is not used; a warning that it is newly initialised can be ignored.
"""

_LISTWISE = """\
## Adjustments δ: {names}

These adapters give one vector per candidate; `slate_head.safetensors` turns the M vectors v (H = {hidden} wide) of a
slate into M adjustments δ, by one self-attention block of width W = {width} with {heads} heads over the candidates:

- r_i = Σ v · log p of the pointwise objectives, by the formula `relevance` in `serving.json`
- x_i = enter·v_i + relevance·r_i, (M, W)
- q, k, v = qkv·LayerNorm(x), each (M, W), cut into {heads} heads of {head_width}
- a = softmax(q kᵀ / √{head_width}) v, (M, W)
- y = x + mix·a, δ_i = out·gelu(y_i), (M,); the exact (erf) gelu

δ depends on which candidates share the slate, not on their order. `check_golden.py` holds these functions; from within
this folder:

```python
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from check_golden import candidate_vector, load_adapter, relevance, slate_delta

export = Path(".")  # this folder
serving = json.loads((export / "serving.json").read_text("utf-8"))
slate = json.loads((export / "golden_slate.json").read_text("utf-8"))
model = load_adapter(export, serving, "{first}")
head = load_file(export / "{first}" / "slate_head.safetensors")
prefix = slate["prefix_ids"]
with torch.inference_mode():
    vectors = [candidate_vector(model, serving, prefix + ids, len(prefix)) for ids in slate["candidate_ids"]]
    heads = serving["objectives"]["{first}"]["heads"]
    delta = slate_delta(head, heads, torch.stack(vectors), relevance(serving, slate["logit"]))
print("{first}", delta[0].item(), slate["delta"]["{first}"][0])
```

"""


def _with_quantization(serving: Mapping[str, Any], template: str) -> str:
    """A template whose code also packs the base, where the trained one was."""
    if not serving["base"]["quantization"]:
        return template
    exact = (
        "for module in model.modules():  # some CPUs would pack once more, and compute in bfloat16\n"
        '    if hasattr(module, "support_avx512bf16_for_cpu"):\n'
        "        module.support_avx512bf16_for_cpu = False\n"
    )
    template = template.replace(".eval()\n", ".eval()\n" + exact)
    quantized = 'base, quantization_config=BitsAndBytesConfig(**serving["base"]["quantization"]),\n    revision='
    return template.replace("from transformers import ", "from transformers import BitsAndBytesConfig, ").replace(
        "base, revision=", quantized
    )


def pointwise_example(serving: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The objective that code of the card shows, and its part of serving.json: the first that gives a probability."""
    found = [(name, about) for name, about in serving["objectives"].items() if about["kind"] == "pointwise"]
    return next((each for each in found if "link" not in each[1]), found[0])


def _beside(serving: Mapping[str, Any]) -> str:
    """What heads read beside the text, in words; nothing where that is the text alone."""
    reads = any(scale.get("heads", True) for scale in serving.get("features", {}).values())
    parts = {
        "features": reads,
        "priors": serving.get("priors"),
        "a comparison with the history": serving.get("comparison"),
    }
    return ", ".join(words for words, there in parts.items() if there)


def _base(base: Mapping[str, Any]) -> str:
    """The expression in code that finds the base."""
    if base["inside_export"]:
        return 'str(export / "base")'
    path = 'serving["base"]["path"]'
    if base["relative"] is None:  # on the hub
        return path
    return f"{path}  # a folder of the exporting machine: elsewhere, the place of the base there"


def pointwise(serving: Mapping[str, Any]) -> str:
    """Code that gives one objective's number of a golden prompt."""
    name, about = pointwise_example(serving)
    beside = _beside(serving)
    apart = serving.get("trunk") == "apart"
    if serving["scope"] == "candidates" or beside or "link" in about or apart:
        word = "prediction" if "link" in about else "probability"
        return _LOAD_BESIDE.format(
            name=name,
            remark=(_SCOPED.format(split=serving["split"]) if serving["scope"] == "candidates" else "")
            + (_APART.format(split=serving["split"]) if apart else ""),
            number="Predictions" if "link" in about else "Probabilities",
            word=word,
            beside=f"its head also reads {beside}; " if beside else "",
        )
    base = _base(serving["base"])
    if about["form"] == "sequence_classification":
        return _with_quantization(serving, _LOAD_CLASSIFIER).format(name=name, base=base)
    prefix = serving["mask"] == "prefix"
    return _with_quantization(serving, _LOAD_FEATURES).format(
        name=name,
        base=base,
        forward=_FORWARD_PREFIX.format(vector=_VECTORS[serving["pooling"]]) if prefix else _FORWARD_CAUSAL,
        remark=_REMARK_PREFIX if prefix else "",
    )


def listwise(objectives: Mapping[str, Any], hidden: int) -> str:
    """The section on adjustments δ, with code; nothing where there are none. `hidden`: width of the base."""
    names = [name for name, about in objectives.items() if about["kind"] == "listwise"]
    if not names:
        return ""
    about = objectives[names[0]]
    return _LISTWISE.format(
        names=", ".join(names),
        first=names[0],
        hidden=hidden,
        width=about["width"],
        heads=about["heads"],
        head_width=about["width"] // about["heads"],
    )

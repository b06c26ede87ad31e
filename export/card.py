"""README.md of an export: the model card, with code that runs as it stands."""

from collections.abc import Mapping, Sequence
from typing import Any

from equipoise.configs.schema import RunConfig
from equipoise.export.card_serving import serving_section
from equipoise.export.golden import Prompt

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
print("{name}", logit.item(), golden["logit"]["{name}"])
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
print("{name}", logit.item(), golden["logit"]["{name}"])
```

{remark}Load the other pointwise objectives in the same way from their folders.
"""

_LOAD_SCOPED = """\
**These adapters were trained with `lora.scope: candidates`**: from layer {split} on they act on the candidate's tokens
alone, so that a prefix is encoded once for all objectives. A server that applies LoRA to every token (vLLM) gives other
scores; train with `lora.scope: all` for it. `acting` in `check_golden.py`
shows in a few lines of plain torch what to do; probabilities of `{name}`, from within this folder:

```python
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from check_golden import load_adapter, logit

export = Path(".")  # this folder
serving = json.loads((export / "serving.json").read_text("utf-8"))
golden = json.loads((export / "golden.jsonl").read_text("utf-8").splitlines()[0])
about = serving["objectives"]["{name}"]
model = load_adapter(export, serving, "{name}")
head = load_file(export / "{name}" / about["head"]) if about["head"] else None
with torch.inference_mode():
    value = logit(model, serving, "{name}", head, golden)
probability = torch.sigmoid(torch.tensor(value + about["logit_offset"]))
print("{name}", value, golden["logit"]["{name}"])
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

OPERATING_POINT = "## Operating point"
_LISTS = """\
lists are filled place after place by it and by what is placed already, as `lists` in `serving.json` says. At place t,
with d = 1 / log2(t + 1), a candidate counts d · (w + Σ ω p / D) + Σ ω exp(δ) · 2 / (K (K − 1)) · Σ distances: w is its
share of the value exp(u) of the ideal list of K places, p the price of its group plus δ (D the sum of the K discounts),
distances are those to the candidates that are placed. `fill_list` of `check_golden.py` does it; candidates bring the
attributes that it reads."""


def render_card(
    config: RunConfig,
    serving: Mapping[str, Any],
    counts: str,
    hidden: int,
    report: Mapping[str, Any] | None,
    slate: Sequence[Prompt],
) -> str:
    """The model card as Markdown.

    Args:
        config: the run's config.
        serving: the content of serving.json.
        counts: one sentence about the data that the run was trained on.
        hidden: width of the base model.
        report: the run's evaluation of the test split, if there is one.
        slate: candidates of one golden slate, for example requests.
    """
    objectives: Mapping[str, Any] = serving["objectives"]
    parts = [
        f"# {config.name}\n\nOne LoRA adapter per objective for `{config.backbone.path}`, trained together.\n",
        _objectives_table(objectives),
        _base(serving),
        f"## Data\n\n{counts}\n",
        _prompts(serving),
        "## Loading\n\n" + _pointwise(serving),
        _beside_text(serving),
        _calibrated(objectives),
        _listwise(objectives, hidden),
        serving_section(serving, slate),
        _operating_point(serving),
        _evaluation(report),
        _limits(config, serving),
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts if part)


def with_operating_point(card: str, serving: Mapping[str, Any]) -> str:
    """The card with its operating point written again from serving.json's; ValueError where it has no such section."""
    before, heading, after = card.partition(OPERATING_POINT)
    if not heading:
        raise ValueError(f"no section '{OPERATING_POINT.strip()}'")
    rest = after.partition("\n## ")
    return before + _operating_point(serving) + "".join(rest[1:])


def _objectives_table(objectives: Mapping[str, Any]) -> str:
    lines = ["## Objectives\n", "| folder | kind | served as | meaning |", "| --- | --- | --- | --- |"]
    for name, about in objectives.items():
        served = (
            "sequence classifier" if about["form"] == "sequence_classification" else f"features + `{about['head']}`"
        )
        meaning = about["meaning"].replace("|", "\\|")  # a bar would end the cell
        lines.append(f"| `{name}/` | {about['kind']} | {served} | {meaning} |")
    return "\n".join(lines) + (
        "\n\nEach folder is an ordinary PEFT LoRA adapter: its lower layers are the `shared` adapter of the training, "
        "the same in every folder, its upper layers are the objective's own.\n"
    )


def _beside_text(serving: Mapping[str, Any]) -> str:
    """What a logit holds beside the text; nothing where it is the text's alone."""
    priors, compared = serving.get("priors"), serving.get("comparison")
    parts = []
    for name, about in (priors or {}).get("objectives", {}).items():
        kind = {"trees": "boosted trees", "linear": "a logistic regression", "column": "a score of the request"}
        source = f"in `{about['file']}`" if about["file"] else f"in the feature `{about['columns'][0]}`"
        chain = f", divided by the probability of {', '.join(about['before'])}" if about["before"] else ""
        listed = ", ".join(f"`{column}`" for column in about["columns"])
        parts.append(
            f"- `{name}` begins as {kind[about['method']]} {source}{chain}: its logit holds {about['weight']:.3f} · "
            f"log-odds {about['bias']:+.3f}. Columns: {listed}.{_fallback(about)}"
        )
    if compared:
        parts.append(
            f"- Every pointwise logit also holds a comparison of the candidate's `{compared['item']}` with what the "
            f"shopper took (at most {compared['max_events']} texts): {compared['rule']}."
        )
    if not parts:
        return ""
    return (
        "## Beside the text\n\n" + "\n".join(parts) + "\n\nAdapter and `score.weight` alone give the text's part of "
        "a logit: `logit` in `check_golden.py` gives the whole of a golden prompt on which `read_beside` was called "
        "(with LightGBM where a prior is boosted trees); the server and `equipoise recommend` do it by themselves. "
        "Requests bring what the shopper took as `recent`, by default it is their `history`.\n"
    )


def _fallback(about: Mapping[str, Any]) -> str:
    """What a prior is of a shopper of whom nothing is known; nothing where that is as of all."""
    if not about["fallback"]:
        return ""
    unknown = ", ".join(f"`{column}`" for column in about["of_shopper"])
    return (
        f" Where all of {unknown} are unknown (of counts: or 0), the regression on `{about['fallback']}` in "
        f"`{about['fallback_file']}` stands in its place."
    )


def _calibrated(objectives: Mapping[str, Any]) -> str:
    """How calibrated logits come from raw ones; nothing where no objective has a calibration."""
    rules = {about["calibration"]["rule"]: None for about in objectives.values() if "calibration" in about}
    names = ", ".join(f"`{name}`" for name, about in objectives.items() if "calibration" in about)
    if not rules:
        return ""
    return (
        f"## Calibration\n\nThe logits of {names} were corrected on validation data after training. Take the sigmoid "
        "of the corrected logit for the probability: " + "; ".join(rules) + ". The numbers are in "
        "`objectives.NAME.calibration` of `serving.json`, `calibrated` in `golden.jsonl` holds what comes out; the "
        "server and `equipoise recommend` do it by themselves. Adjustments δ read the logits without it.\n"
    )


def _base(serving: Mapping[str, Any]) -> str:
    base = serving["base"]
    if base["inside_export"]:
        text = (
            f"The base {_origin(base)}, so no path holds its weights: they are saved once in `base/`. "
            "`adapter_config.json` names that folder by its absolute place at export; after a move, load the base from "
            "`base/` as below."
        )
    else:
        text = f"The base model is `{base['path']}`" + (
            f", revision `{base['revision']}`." if base["revision"] else "."
        )
        if base["path"] != base["configured"]:
            text += (
                f" The run named it `{base['configured']}`, which is resolved here and in `adapter_config.json` to a "
                "folder of the exporting machine: elsewhere, load the base from where it lies there (`--base` of all "
                "commands, and of `check_golden.py`)."
            )
    if base["quantization"]:
        text += (
            " It was quantized to 4 bits in training, and the golden logits are those of the quantized base: it needs "
            "bitsandbytes, and a base in full gives other scores."
        )
    hashes = " and the sha256 of its weights" if base["weights_sha256"] else ""
    return f"## Base model\n\n{text} `serving.json` holds its fingerprint{hashes}. The tokenizer is in `tokenizer/`.\n"


def _origin(base: Mapping[str, Any]) -> str:
    """Where a base that is saved in the export comes from."""
    if base["init"] == "random":
        return "was initialised at random (`backbone.init: random`)"
    file = base.get("gguf_sha256")
    layers = f"the first {base['layers']} layers of " if base.get("layers") else ""
    return f"is {layers}`{base['configured']}`" + (f", dequantised (sha256 of the GGUF file: `{file}`)" if file else "")


def _prompts(serving: Mapping[str, Any]) -> str:
    layout = serving["layout"]
    return (
        "## Prompts\n\n`serving.json` holds the templates (`prompt`, `history`) and the ids' layout (`layout`):\n\n"
        f"- rule: {layout['rule']}\n- limits: {layout['truncation']} "
        f"(max_prefix {layout['max_prefix']}, max_candidate {layout['max_candidate']})\n"
        f"- code: `prompt_ids` in `check_golden.py`\n- mask: {serving['mask']}; pooling: {serving['pooling']}\n"
    )


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


def _pointwise(serving: Mapping[str, Any]) -> str:
    name, about = next((n, a) for n, a in serving["objectives"].items() if a["kind"] == "pointwise")
    if serving["scope"] == "candidates":
        return _LOAD_SCOPED.format(name=name, split=serving["split"])
    base = 'str(export / "base")' if serving["base"]["inside_export"] else 'serving["base"]["path"]'
    if about["form"] == "sequence_classification":
        return _with_quantization(serving, _LOAD_CLASSIFIER).format(name=name, base=base)
    prefix = serving["mask"] == "prefix"
    return _with_quantization(serving, _LOAD_FEATURES).format(
        name=name,
        base=base,
        forward=_FORWARD_PREFIX.format(vector=_VECTORS[serving["pooling"]]) if prefix else _FORWARD_CAUSAL,
        remark=_REMARK_PREFIX if prefix else "",
    )


def _listwise(objectives: Mapping[str, Any], hidden: int) -> str:
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


def _operating_point(serving: Mapping[str, Any]) -> str:
    point = serving["operating_point"]
    omega = ", ".join(f"ω_{name} = {value:g}" for name, value in point["omega"].items())
    if serving.get("lists"):
        return (
            f"{OPERATING_POINT}\n\nCandidates have the utility `{point['utility']}` with `{serving['relevance']}`; "
            f"{_LISTS} This export sets {omega}: {point['note']}.\n"
        )
    return (
        f"{OPERATING_POINT}\n\nCandidates are ranked by `{point['utility']}` with `{serving['relevance']}`. "
        + (f"This export sets {omega}: {point['note']}." if omega else "There is no list-wise objective: u = r.")
        + "\n"
    )


def _evaluation(report: Mapping[str, Any] | None) -> str:
    if not report:
        return "## Evaluation\n\nThe run had not been evaluated on the test split when it was exported.\n"
    lines = ["## Evaluation (test split)\n"]
    for target, metrics in (report.get("pointwise") or {}).items():
        lines.append(f"- {target}: {_numbers(metrics)}")
        for name, values in ((report.get("baselines") or {}).get(target) or {}).items():
            lines.append(f"  - baseline {name}: {_numbers({key: values[key] for key in metrics if key in values})}")
    lines += [f"- {sentence}" for sentence in report.get("verdict") or []]
    return "\n".join(lines) + "\n\nThe full report is `evaluation_test.json`.\n"


def _numbers(metrics: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items() if isinstance(value, int | float))


def _limits(config: RunConfig, serving: Mapping[str, Any]) -> str:
    names = [f"`{name}`" for name in serving["versions"]]
    lines = [
        "Scores are those of the training domain: other catalogues, prompts or label definitions need a new training.",
        f"Prompts were cut at {config.tokens.max_prefix} + {config.tokens.max_candidate} tokens.",
        "Probabilities are calibrated to the rate of clicks and conversions in the training period, if at all: watch "
        "calibration when that rate moves.",
        "δ was trained on whole slates as they were shown; on much longer or shorter ones it is untested.",
        "`golden.jsonl` was scored in float32 on a CPU; in lower precision expect small differences.",
        f"Checked with the versions of {', '.join(names)} that `serving.json` lists; run `python check_golden.py` "
        "after any upgrade.",
    ]
    if not any(about["kind"] == "listwise" for about in serving["objectives"].values()):
        lines = [line for line in lines if not line.startswith("δ")]
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines) + "\n"

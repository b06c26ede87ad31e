"""The part of the model card that says how to serve an export: our server, vLLM, SGLang, TEI, ONNX.

What cannot be run where this project is developed is marked as not run.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from equipoise.export.card_loading import pointwise_example
from equipoise.export.golden import Prompt

_OWN = """\
### `equipoise serve`

All formats, scopes and objectives; ω can be chosen per request. `request_schema.json` is the JSON Schema of requests,
with the names of all fields:

```bash
pip install 'equipoise[serve]'
equipoise serve . --port 8000  # from within this folder
```

From another terminal:

```bash
curl -s http://127.0.0.1:8000/rank -H 'Content-Type: application/json' -d @- <<'REQUEST'
{request}
REQUEST
```
"""

_VLLM = """\
### vLLM

Not run here (no GPU); the adapters were held against every rule of vLLM's LoRA loader when they were exported. It needs
a vLLM that takes classification heads from adapters (pull request 53555, merged by September 2026). vLLM loads the head
into a base that has one, so give the base a `score` layer once:

```bash
python - <<'CODE'
from transformers import AutoModelForSequenceClassification, AutoTokenizer
model = AutoModelForSequenceClassification.from_pretrained("{base}", num_labels=1{revision})
model.config.pad_token_id = {pad}
model.save_pretrained("base_with_score")
AutoTokenizer.from_pretrained("tokenizer").save_pretrained("base_with_score")
CODE
vllm serve base_with_score --runner pooling --convert classify \\
  --enable-lora --max-lora-rank {rank} --max-loras {count} --lora-modules {modules}
curl -s http://127.0.0.1:8000/classify -H 'Content-Type: application/json' \\
  -d '{{"model": "{name}", "input": [{ids}], "use_activation": false}}'
```

`input` takes token ids, laid out as under *Prompts*; text would be tokenised in another way. With
`"use_activation": false` the answer is the logit, to which `logit_offset` ({offset:.6f} for `{name}`) is added before
the sigmoid. Expect differences of a few 0.01 in bfloat16; `golden.jsonl` has the exact values.
"""

_MERGED = """\
### Merged checkpoints (`merged/`)

One full checkpoint per objective in {dtype}, for servers without LoRA; its logits are within {tolerance:g} of the
golden ones (absolute below 1, relative above). {kinds} No stock class adds `logit_offset`: it stands in each
`config.json`, add it before the sigmoid (vLLM, not run here:
`--pooler-config '{{"logit_bias": X}}'` subtracts X, so X is −logit_offset).
"""

_MERGED_DECODER = """\
Pointwise objectives are sequence classifiers (`num_labels` 1, `pad_token_id` set); list-wise ones are bare models with
`slate_head.safetensors` beside them. Not run here: `vllm serve merged/{name} --runner pooling`."""

_MERGED_ENCODER = """\
Each is the bare encoder with its head beside it (`head.safetensors` or `slate_head.safetensors`): load it with
`AutoModel` and go on as under *Loading*, without PEFT."""

_SGLANG = """\
### SGLang

Not run here (no GPU). A merged checkpoint is what `/v1/score` takes as a sequence classifier, and SGLang's multi-item
scoring is a slate: every candidate sees the prefix and itself alone, its positions go on from the prefix's end, and its
last token is read. The delimiters that the server puts between candidates are seen by no token of a candidate, so the
scores are the golden ones. It needs an SGLang that has `--enable-mis` (pull requests 22118 and 22544, April 2026); the
radix cache, chunked prefill and CUDA graphs are then off:

```bash
python -m sglang.launch_server --model-path merged/{name} --is-embedding \\
  --enable-mis --attention-backend flashinfer --port 30000
curl -s http://127.0.0.1:30000/v1/score -H 'Content-Type: application/json' \\
  -d '{{"model": "merged/{name}", "query": {query}, "items": {items}}}'
```

`query` and `items` are token ids, laid out as under *Prompts*; text would be tokenised in another way. `scores` are
logits, one list of one number per candidate: add `logit_offset` ({offset:.6f} for `{name}`) before the sigmoid. Expect
differences of a few 0.01 in bfloat16; `golden.jsonl` has the exact values.
"""

_TEI_ENCODER = """\
### text-embeddings-inference

It serves neither form: it has no mask that keeps the prefix from seeing the candidate, and no head for one token. Use
`equipoise serve` or the ONNX graph (`equipoise export … --format onnx`).
"""

_TEI_DECODER = """\
### text-embeddings-inference

It loads no LoRA adapters, and the classifiers that it documents for `/predict` are of the BERT family, so it gives no
pCTR for a decoder. Merged bare models of list-wise objectives can be embedded where it knows the architecture (such as
Qwen2 or Mistral; `--pooling last-token`, `"normalize": false`); the slate head is then yours to apply. Not run here.
"""

_ALORA = """\
### Activated LoRA (`alora/`)

The same adapters in PEFT's activated form: `alora/shared` is ordinary LoRA below layer {split}, merged into the base
once; `alora/NAME` acts on a prompt's last tokens alone, as many as `alora_offsets` says. Called with the number of the
candidate's tokens it gives the golden logits, and a prefix's keys and values are the same for all objectives:

```python
import json
from pathlib import Path

import torch

from check_formats import load_activated
{imports}
export = Path(".")  # this folder
serving = json.loads((export / "serving.json").read_text("utf-8"))
golden = json.loads((export / "golden.jsonl").read_text("utf-8").splitlines()[0])
model = load_activated(export, serving, "{name}")  # base + alora/shared merged + alora/{name}
offset = len(golden["input_ids"]) - golden["prefix_tokens"]
with torch.inference_mode():
    output = model(input_ids=torch.tensor([golden["input_ids"]]), alora_offsets=[offset])
{read}
print("{name}", value, golden["logit"]["{name}"])
```

Offsets must be given: `alora_invocation_tokens` ({tokens}) only switches the form on. A server that looks for the last
invocation tokens of a prompt finds those that end the candidate, and gives other scores: these prompts have no tokens
that begin a candidate and nothing else. vLLM refuses activated adapters (as of 2026-11-24).
"""

_ALORA_IMPORTS = "from check_golden import head_logit, rates_of, read_beside, read_head, standardised\n"
_ALORA_READ = """\
    slate = json.loads((export / "golden_slate.json").read_text("utf-8"))
    read_beside(export, serving, [golden], slate)  # what a logit holds beside the text, if anything
head = read_head(export / "alora" / "{name}", serving["objectives"]["{name}"])
vector, features = output.last_hidden_state[0, -1], standardised(serving, golden.get("features", {{}}))
value = head_logit(head, vector, features, rates_of(serving), "{name}", golden.get("beside"))"""

_ONNX = """\
### ONNX (`onnx/`)

One graph for all objectives on CPUs, exact (float32, within 1e-4 of the golden logits): a packed slate in, `logit_NAME`
(without `logit_offset`) and `delta_NAME` out; the prefix is encoded once for all candidates. `onnx_inputs` in
`check_formats.py` packs a slate:

```python
import json
from pathlib import Path

import onnxruntime

from check_formats import {imports}

export = Path(".")  # this folder
slate = json.loads((export / "golden_slate.json").read_text("utf-8"))
{read}session = onnxruntime.InferenceSession(str(export / "onnx" / "{graph}"), providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
outputs = dict(zip(names, session.run(None, inputs)))
print("{name}", outputs["logit_{name}"][0], slate["logit"]["{name}"][0])
```

{int8}`onnx/report.json` compares AUC and latency with the trained model.
"""

_INT8 = """\
`onnx/model_int8.onnx` has the same inputs and outputs; its matrix products run in int8. Single scores move,
AUC hardly: `onnx/report.json` says by how much.
"""


def serving_section(serving: Mapping[str, Any], slate: Sequence[Prompt]) -> str:
    """ "## Serving" of the card.

    Args:
        serving: the content of serving.json.
        slate: candidates of one golden slate, for an example request.
    """
    encoder = serving["mask"] == "prefix"
    parts = ["## Serving\n", _OWN.format(request=_request(slate)), _vllm(serving, slate)]
    parts += [_further(serving, encoder), _sglang(serving, slate), _TEI_ENCODER if encoder else _TEI_DECODER]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts if part)


def _request(slate: Sequence[Prompt]) -> str:
    """A body of POST /rank in texts, which need no catalogue, with all features that are known."""
    candidates = []
    for number, prompt in enumerate(slate[:3]):
        known = {name: value for name, value in prompt.features.items() if value is not None}
        candidate = {"item_id": str(number), "text": prompt.item, "context": prompt.context, "features": known}
        candidates.append({key: value for key, value in candidate.items() if value or key in ("item_id", "text")})
    recent = {"recent": list(slate[0].things.history)} if slate[0].things and slate[0].things.history else {}
    body = {"prefix": slate[0].prefix, **recent, "candidates": candidates}
    return json.dumps(body, ensure_ascii=False, indent=1)


def _vllm(serving: Mapping[str, Any], slate: Sequence[Prompt]) -> str:
    served = {name: about for name, about in serving["vllm"].items() if about["serves"]}
    reasons: dict[str, list[str]] = {}
    for name, about in serving["vllm"].items():
        if not about["serves"]:
            reasons.setdefault(about["why_not"], []).append(f"`{name}`")
    lines = [f"- not for vLLM: {', '.join(names)} ({why})" for why, names in reasons.items()]
    if not served:
        return "### vLLM\n\n" + "\n".join(lines)
    first = next(iter(served))
    base = serving["base"]
    text = _VLLM.format(
        base=base["path"],
        revision=f', revision="{base["revision"]}"' if base["revision"] else "",
        pad=serving["pad_token_id"],
        rank=max(about["max_lora_rank"] for about in served.values()),
        count=len(served),
        modules=" ".join(f"{name}=$PWD/{name}" for name in served),
        name=first,
        ids=json.dumps([*slate[0].prefix_ids, *slate[0].candidate_ids]),
        offset=serving["objectives"][first]["logit_offset"],
    )
    return text + ("\n" + "\n".join(lines) + "\n" if lines else "")


def _sglang(serving: Mapping[str, Any], slate: Sequence[Prompt]) -> str:
    """How SGLang scores slates, where a merged checkpoint is there that it can; else why not, or "" without any."""
    if "merged" not in serving["formats"]:
        return ""
    served = [name for name, about in serving["sglang"].items() if about["serves"]]
    reasons: dict[str, list[str]] = {}
    for name, about in serving["sglang"].items():
        if not about["serves"]:
            reasons.setdefault(about["why_not"], []).append(f"`{name}`")
    lines = "\n".join(f"- not for SGLang: {', '.join(names)} ({why})" for why, names in reasons.items())
    if not served:
        return "### SGLang\n\n" + lines
    text = _SGLANG.format(
        name=served[0],
        query=json.dumps(list(slate[0].prefix_ids)),
        items=json.dumps([list(prompt.candidate_ids) for prompt in slate[:2]]),
        offset=serving["objectives"][served[0]]["logit_offset"],
    )
    return text + (f"\n{lines}\n" if lines else "")


def _further(serving: Mapping[str, Any], encoder: bool) -> str:
    """What the folders of further formats hold and how they are called."""
    name, about = pointwise_example(serving)
    formats, parts = serving["formats"], []
    if "alora" in formats:
        stock = about["form"] == "sequence_classification"
        code = _ALORA.format(
            split=serving["split"],
            name=name,
            imports="" if stock else _ALORA_IMPORTS,
            read="value = output.logits[0, 0].item()" if stock else _ALORA_READ.format(name=name),
            tokens=formats["alora"]["invocation_tokens"],
        )
        parts.append(code)
    if "merged" in formats:
        about = formats["merged"]
        kinds = _MERGED_ENCODER if encoder else _MERGED_DECODER.format(name=name)
        parts.append(_MERGED.format(dtype=about["dtype"], tolerance=about["tolerance"], kinds=kinds))
    if "onnx" in formats:
        parts.append(_onnx(serving, name))
    return "\n".join(parts)


def _onnx(serving: Mapping[str, Any], name: str) -> str:
    """How the graph is called, with all that it reads."""
    about, read, imports = serving["formats"]["onnx"], "", ["onnx_inputs"]
    inputs = 'inputs = onnx_inputs(slate["prefix_ids"], slate["candidate_ids"])\n'
    if set(about["inputs"]) & {"features", "prior", "vectors"}:
        read = 'serving = json.loads((export / "serving.json").read_text("utf-8"))\n'
    if set(about["inputs"]) & {"prior", "vectors"}:
        imports.append("beside_inputs")
        read += "with torch.inference_mode():\n    read_beside(export, serving, [], slate)\n"
        inputs += 'inputs |= beside_inputs(serving, slate["beside"])\n'
    if "features" in about["inputs"]:
        inputs += (
            'inputs["features"] = torch.stack([standardised(serving, each) for each in slate["features"]]).numpy()\n'
        )
    code = _ONNX.format(
        graph=about["graph"],
        name=name,
        imports=", ".join(sorted(imports)),
        read=read + inputs,
        int8=_INT8 if about["int8"] else "",
    )
    helpers = [name for name in ("read_beside", "standardised") if f"{name}(" in inputs + read]
    if helpers:
        code = code.replace("import onnxruntime\n", "import onnxruntime\nimport torch\n")
        code = code.replace("\n\nexport = Path", f"\nfrom check_golden import {', '.join(helpers)}\n\nexport = Path")
    return code

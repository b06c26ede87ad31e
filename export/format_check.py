"""Checks the further formats of an export (`alora/`, `merged/`, `onnx/`) beside check_golden.py, which calls it.

Plain torch, transformers and peft again, onnxruntime for `onnx/`; nothing of the project that wrote it is needed.
Each check returns the largest difference per objective, relative where a score is above 1.

Shapes: T tokens of a row, N candidates.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from check_golden import (
    check_logits,
    check_slate,
    difference,
    head_logit,
    load_base,
    rates_of,
    read_head,
    slate_delta,
    standardised,
)
from check_golden import relevance as relevance_of
from peft import PeftModel
from transformers import AutoModel, AutoModelForSequenceClassification

Json = dict[str, Any]


def load_activated(folder: Path, serving: Json, objective: str) -> Any:
    """The base with `alora/shared` merged into it and the objective's activated adapter on top."""
    about = serving["formats"]["alora"]
    base = load_base(folder, serving, about["shared_form"])
    merged = PeftModel.from_pretrained(base, str(folder / about["shared"])).merge_and_unload()
    if serving["objectives"][objective]["form"] != about["shared_form"]:
        merged = merged.base_model  # the bare model inside the classifier
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="aLoRA is currently only supported for CAUSAL_LM")
        return PeftModel.from_pretrained(merged, str(folder / about["folder"] / objective)).eval()


def check_activated(folder: Path, serving: Json, prompts: list[Json], slate: Json) -> dict[str, float]:
    """The activated adapters, called with the number of the candidate's tokens as offset."""
    worst = {}
    for name, about in serving["objectives"].items():
        model = load_activated(folder, serving, name)
        head = read_head(folder / serving["formats"]["alora"]["folder"] / name, about)
        if about["kind"] == "pointwise":
            scores = []
            for prompt in prompts:
                ids, offset = torch.tensor([prompt["input_ids"]]), len(prompt["input_ids"]) - prompt["prefix_tokens"]
                output = model(input_ids=ids, alora_offsets=[offset])
                features = standardised(serving, prompt.get("features", {}))
                value = (
                    output.logits[0, 0].item()
                    if head is None
                    else head_logit(head, output[0][0, -1], features, rates_of(serving), name, prompt.get("beside"))
                )
                scores.append(value)
            golden = [prompt["logit"][name] for prompt in prompts]
        else:
            rows = [torch.tensor([[*slate["prefix_ids"], *ids]]) for ids in slate["candidate_ids"]]
            offsets = [len(ids) for ids in slate["candidate_ids"]]
            vectors = [
                model(input_ids=row, alora_offsets=[offset]).last_hidden_state[0, -1]
                for row, offset in zip(rows, offsets, strict=True)
            ]
            relevance = relevance_of(serving, slate["logit"])
            scores = slate_delta(head or {}, about["heads"], torch.stack(vectors), relevance).tolist()
            golden = slate["delta"][name]
        worst[name] = max(difference(a, b) for a, b in zip(scores, golden, strict=True))
    return worst


def load_merged(folder: Path, serving: Json, objective: str) -> Any:
    """A merged checkpoint as a stock class loads it, in float32; no weight may be missing or left over."""
    path = str(folder / serving["formats"]["merged"]["folder"] / objective)
    classified = serving["objectives"][objective]["form"] == "sequence_classification"
    model, loading = (AutoModelForSequenceClassification if classified else AutoModel).from_pretrained(
        path, dtype=torch.float32, attn_implementation=serving["attn_implementation"], output_loading_info=True
    )
    strays = [key for key in loading["missing_keys"] if not key.startswith("pooler.")] + list(
        loading["unexpected_keys"]
    )
    if strays:
        raise SystemExit(f"merged/{objective}: {strays[0]} does not fit the stock class")
    return model.eval()


def check_merged(folder: Path, serving: Json, prompts: list[Json], slate: Json) -> dict[str, float]:
    """The merged checkpoints, alone in their folders: weights, config and head."""
    worst = {}
    for name, about in serving["objectives"].items():
        model = load_merged(folder, serving, name)
        head = read_head(folder / serving["formats"]["merged"]["folder"] / name, about)
        if about["kind"] == "pointwise":
            worst[name] = check_logits(model, serving, name, head, prompts)
        else:
            worst[name] = check_slate(model, serving, name, head or {}, slate)
    return worst


def onnx_inputs(prefix: list[int], candidates: list[list[int]]) -> dict[str, Any]:
    """One slate in one row, as numpy arrays: prefix, then candidates whose positions all go on from the prefix."""
    import numpy as np

    ids, positions, segments, places = list(prefix), list(range(len(prefix))), [0] * len(prefix), []
    longest = max(map(len, candidates))
    for number, candidate in enumerate(candidates):
        places.append([len(ids) + n if n < len(candidate) else -1 for n in range(longest)])
        ids += candidate
        positions += range(len(prefix), len(prefix) + len(candidate))
        segments += [number + 1] * len(candidate)
    rows = {"input_ids": [ids], "position_ids": [positions], "segment_ids": [segments]}
    slots = [list(range(len(candidates)))]
    rows |= {"candidate_tokens": places, "slots": slots}
    return {key: np.array(value, np.int64) for key, value in rows.items()}


def beside_inputs(serving: Json, beside: list[Json]) -> dict[str, Any]:
    """The graph's inputs beside the text of one slate: log-odds of priors, and what candidates are compared with."""
    import numpy as np

    inputs: dict[str, Any] = {}
    if serving.get("priors"):
        order = list(serving["priors"]["objectives"])
        inputs["prior"] = np.array([[each["prior"][name] for name in order] for each in beside], np.float32)
    if serving.get("comparison"):
        vectors: dict[str, Any] = dict(beside[0]["taken"])
        history = list(range(len(vectors)))
        for each in beside:
            if each["candidate"] is not None:
                vectors.setdefault(each["thing"], each["candidate"])
        rows = {text: row for row, text in enumerate(vectors)}
        size = serving["comparison"]["vectors"]
        inputs["vectors"] = np.stack([vector.numpy() for vector in vectors.values()] or [np.zeros(size, np.float32)])
        inputs["history"] = np.array([history + [-1] * (5 - len(history))], np.int64)
        inputs["thing"] = np.array([rows.get(each["thing"], -1) for each in beside], np.int64)
    return inputs


def check_onnx(folder: Path, serving: Json, prompts: list[Json], slate: Json) -> dict[str, float]:
    """The float32 graph: every golden prompt alone, and the golden slate packed."""
    import onnxruntime

    about = serving["formats"]["onnx"]
    session = onnxruntime.InferenceSession(
        str(folder / about["folder"] / about["graph"]), providers=["CPUExecutionProvider"]
    )

    def run(
        prefix: list[int], candidates: list[list[int]], features: list[Json], beside: list[Json]
    ) -> dict[str, list[float]]:
        inputs = onnx_inputs(prefix, candidates) | beside_inputs(serving, beside)
        if any(scale.get("heads", True) for scale in serving.get("features", {}).values()):
            inputs["features"] = torch.stack([standardised(serving, values) for values in features]).numpy()
        values = session.run(about["outputs"], inputs)
        return {name: value.tolist() for name, value in zip(about["outputs"], values, strict=True)}

    packed = run(slate["prefix_ids"], slate["candidate_ids"], slate.get("features", []), slate.get("beside", []))
    alone = []
    for prompt in prompts:
        ids, prefix_len = prompt["input_ids"], prompt["prefix_tokens"]
        features, beside = [prompt.get("features", {})], [prompt.get("beside", {})]
        alone.append(run(ids[:prefix_len], [ids[prefix_len:]], features, beside))
    worst = {}
    for name, objective in serving["objectives"].items():
        if objective["kind"] == "pointwise":
            scores = [one[f"logit_{name}"][0] for one in alone] + packed[f"logit_{name}"]
            golden = [prompt["logit"][name] for prompt in prompts] + slate["logit"][name]
        else:
            scores, golden = packed[f"delta_{name}"], slate["delta"][name]
        worst[name] = max(difference(a, b) for a, b in zip(scores, golden, strict=True))
    return worst


CHECKS = {"alora": check_activated, "merged": check_merged, "onnx": check_onnx}


def check_formats(folder: Path, serving: Json, prompts: list[Json], slate: Json) -> tuple[dict[str, float], Json]:
    """Check the formats that serving.json lists: (largest difference, tolerance) by FORMAT/OBJECTIVE."""
    worst, tolerance = {}, {}
    for kind, about in serving["formats"].items():
        for name, value in CHECKS[kind](folder, serving, prompts, slate).items():
            worst[f"{kind}/{name}"] = value
            tolerance[f"{kind}/{name}"] = about.get("tolerance", serving["tolerance"])
    return worst, tolerance

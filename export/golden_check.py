"""Checks an export with plain torch, transformers and peft (and LightGBM, where priors have boosted trees):
`python check_golden.py [FOLDER] [--base PATH]`.

Loads every adapter of the folder, compares its scores with the golden ones, and prints one line with the largest
difference (relative where a score is above 1). `--base` says where the base model is, where it is elsewhere than at
export. Exit code 1 if it is above the tolerance or a tensor was not loaded.
The functions are the reference for serving. Nothing of the project that wrote the export is needed.

Shapes: T tokens of a prompt, M candidates of a slate, H hidden size, W width of a slate head.
"""

import argparse
import hashlib
import inspect
import json
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import cached_file

Json = dict[str, Any]

CATEGORY_SPEED = 2.0
"""Factor before what categories add, as in training."""

BEST, SHARPNESS, LOWEST = (1, 3, 5), 6.0, -2.0
"""Of comparisons: the best few that are averaged, and the soft maximum log Σ exp(s·x) / s with its least value."""
FARTHEST, LARGEST_SHARE = 12.0, 0.95
"""Of priors: log-odds are kept between −12 and 12; P(B | A) = P(A and B) / P(A) is at most 0.95."""


@cache
def sha256(file: Path) -> str:
    """Hexadecimal digits that stand for a file's content."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def check_files(folder: Path, serving: Json) -> None:
    """Compare the tensors and the tokenizer with what was exported; older exports do not say."""
    for name, expected in serving.get("files", {}).items():
        if not (folder / name).is_file() or sha256(folder / name) != expected:
            raise SystemExit(f"{folder / name} is not the file that was exported")


def check_record(serving: Json) -> None:
    """Compare serving.json with its own digest; older exports have none."""
    if not isinstance(serving, dict) or "objectives" not in serving:
        raise SystemExit("serving.json is not as it was exported")
    rest = {name: value for name, value in serving.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    if serving.get("sha256", digest) != digest:
        raise SystemExit("serving.json is not as it was exported")


def base_path(folder: Path, base: Json) -> str:
    """Where the base is: inside the export, as far from it as at export, or where it was then."""
    if base["inside_export"]:
        return str(folder / base["path"])
    relative = base.get("relative")
    path = str((folder / relative).resolve()) if relative and (folder / relative).is_dir() else base["path"]
    if Path(path).is_absolute() and not Path(path).is_dir():
        raise SystemExit(f"the base model is not at {path}: name its place with --base PATH")
    return path


def load_base(folder: Path, serving: Json, form: str) -> Any:
    """The stock base model in float32: a sequence classifier, or the bare model for `features`."""
    base = serving["base"]
    path = base_path(folder, base)
    for name, expected in (base["weights_sha256"] or {}).items():
        found = cached_file(path, name, revision=base["revision"], _raise_exceptions_for_missing_entries=False)
        if found is None or sha256(Path(found)) != expected:
            raise SystemExit(f"{path}/{name} is not the base model that the adapters were trained on")
    options = {
        "revision": base["revision"],
        "dtype": torch.float32,
        "attn_implementation": serving["attn_implementation"],
    }
    if base.get("quantization"):  # the base as it was trained on: quantized by bitsandbytes
        options["quantization_config"] = BitsAndBytesConfig(**base["quantization"])
    if form == "features":
        model = AutoModel.from_pretrained(path, **options)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, **options)
        model.config.pad_token_id = serving["pad_token_id"]  # it reads the last token that is not this one
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # some CPUs would pack once more, and compute in bfloat16
            module.support_avx512bf16_for_cpu = False
    return model


def load_adapter(folder: Path, serving: Json, objective: str) -> Any:
    """The base with one objective's adapter, ready to score; every tensor of the file must have found its place."""
    about = serving["objectives"][objective]
    path = folder / about["folder"]
    model = PeftModel.from_pretrained(load_base(folder, serving, about["form"]), str(path)).eval()
    written = load_file(path / "adapter_model.safetensors")
    loaded = get_peft_model_state_dict(model, save_embedding_layers=False)
    strays = sorted(set(written) ^ set(loaded))
    if strays:
        raise SystemExit(f"{objective}: {len(strays)} adapter tensors do not fit the model, the first is {strays[0]}")
    for key, tensor in written.items():
        if not torch.equal(tensor, loaded[key].cpu().to(tensor.dtype)):
            raise SystemExit(f"{objective}: adapter tensor {key} was not loaded")
    return model


@contextmanager
def acting(model: Any, serving: Json, prefix_tokens: list[int], tokens: int) -> Iterator[None]:
    """The adapter as it was trained, for a batch of prompts of `tokens` tokens with prefixes of these lengths.

    With `"scope": "all"` that is what it does anyhow. With `"candidates"` the layers from `split` on leave prefix
    tokens alone: what their LoRA adds is set to zero there. (Below `split` is the adapter that all objectives share.)
    With `"trunk": "apart"` the layers below `split` also show candidate tokens no prefix.
    """
    with apart(model, serving, prefix_tokens, tokens), on_candidates_alone(model, serving, prefix_tokens, tokens):
        yield


@contextmanager
def apart(model: Any, serving: Json, prefix_tokens: list[int], tokens: int) -> Iterator[None]:
    """Below `split` prefixes and candidates see themselves alone, where the adapters were trained so."""
    if serving.get("trunk", "joint") == "joint":
        yield
        return
    own_BT = torch.arange(tokens)[None] >= torch.tensor(prefix_tokens)[:, None]
    sees_BTT = own_BT[:, :, None] == own_BT[:, None, :]
    if serving["mask"] == "causal":
        sees_BTT &= torch.ones(tokens, tokens, dtype=torch.bool).tril()
    mask = as_mask(serving, sees_BTT[:, None])

    def masked(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        call = inspect.signature(module.forward).bind(*args, **kwargs)
        call.arguments["attention_mask"] = mask
        return call.args, call.kwargs

    hooks = []
    for name, module in model.named_modules():
        numbers = [part for part in name.split(".") if part.isdigit()]
        if len(numbers) == 1 and name.endswith(f".{numbers[0]}") and int(numbers[0]) < serving["split"]:
            hooks.append(module.register_forward_pre_hook(masked, with_kwargs=True))
    if len(hooks) != serving["split"]:
        raise SystemExit(f"{len(hooks)} layers were found below the split, not {serving['split']}")
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def as_mask(serving: Json, sees: torch.Tensor) -> torch.Tensor:
    """What an attention takes as its mask, from a boolean one (…, T, T)."""
    if serving["attn_implementation"] != "eager":
        return sees
    return torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)  # it is added to the scores


@contextmanager
def on_candidates_alone(model: Any, serving: Json, prefix_tokens: list[int], tokens: int) -> Iterator[None]:
    """From `split` on adapters act on candidate tokens alone, where they were trained so."""
    if serving["scope"] == "all":
        yield
        return
    acts_BT = torch.arange(tokens)[None] >= torch.tensor(prefix_tokens)[:, None]

    def on_candidates(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        more = [1] * (output.ndim - 2)
        if output.shape[:2] == acts_BT.shape:
            return output * acts_BT.view(*acts_BT.shape, *more).to(output)
        if output.shape[0] == acts_BT.numel():  # some modules see all tokens in one line
            return output * acts_BT.reshape(-1, *more, 1).to(output)
        return output * acts_BT[:, None, :, None].to(output)

    hooks = []
    for name, module in model.named_modules():
        layer = re.search(r"\.(\d+)\..*\.lora_B\.[^.]+$", name)
        if layer and int(layer[1]) >= serving["split"]:
            hooks.append(module.register_forward_hook(on_candidates))
    if not hooks:
        raise SystemExit("no adapter module was found above the split")
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def prompt_ids(tokenizer: Any, layout: Json, prefix: str, item: str, context: str) -> tuple[list[int], list[int]]:
    """Token ids of a prompt, prefix and candidate apart, as in training."""

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] if text else []

    start, prefix_end, end = layout["start_ids"], layout["prefix_end_ids"], layout["candidate_end_ids"]
    prefix_room = layout["max_prefix"] - len(start) - len(prefix_end)
    room = layout["max_candidate"] - len(end)
    context_ids = ids(layout["context_separator"] + context)[:room] if context else []
    item_ids = ids(item)[: room - len(context_ids)]
    return [*start, *ids(prefix)[:prefix_room], *prefix_end], [*item_ids, *context_ids, *end]


def places(serving: Json, prefix_tokens: list[int], tokens: int) -> Json:
    """The positions of a batch's tokens (B, T), where the model would count others."""
    positions_BT = torch.arange(tokens).expand(len(prefix_tokens), tokens)
    if serving.get("restarts"):  # candidates begin at 0 again
        prefix_B1 = torch.tensor(prefix_tokens)[:, None]
        positions_BT = torch.where(positions_BT >= prefix_B1, positions_BT - prefix_B1, positions_BT)
    elif serving["mask"] == "causal":
        return {}
    return {"position_ids": positions_BT + serving["first_position"]}  # RoBERTa's first position is not 0


def candidate_vector(model: Any, serving: Json, input_ids: list[int], prefix_tokens: int) -> torch.Tensor:
    """The vector (H,) of a prompt's candidate from a `features` model."""
    ids, where = torch.tensor([input_ids]), places(serving, [prefix_tokens], len(input_ids))
    if serving["mask"] == "causal":
        with acting(model, serving, [prefix_tokens], len(input_ids)):
            return model(input_ids=ids, **where).last_hidden_state[0, -1]
    in_prefix = torch.arange(len(input_ids)) < prefix_tokens
    sees_TT = ~in_prefix[:, None] | in_prefix[None, :]  # prefix tokens see the prefix only, the others see all
    with acting(model, serving, [prefix_tokens], len(input_ids)):
        output = model(input_ids=ids, attention_mask=as_mask(serving, sees_TT[None, None]), **where)
    states_IH = output.last_hidden_state[0, prefix_tokens:]
    return states_IH[-1] if serving["pooling"] == "last" else states_IH.mean(0)


def standardised(serving: Json, values: Json) -> torch.Tensor:
    """The columns (F,) of the features that the heads read: numbers, categories, those without slopes; 0: unknown."""
    scales = serving.get("features", {})
    logs = {"log": math.log, "log1p": math.log1p, "logit": lambda v: math.log(v) - math.log1p(-v), "none": float}
    z: dict[str, float] = {}
    numbers: list[float] = []
    columns: list[float] = []
    levels: list[float] = []
    indexed: list[float] = []
    for name, scale in scales.items():
        if not scale.get("heads", True):
            continue
        value = values[name]
        if scale["scale"] == "category":
            if scale.get("hashed") or scale.get("levels"):
                indexed.append(level_number(scale, value))
                continue
            known = value in scale["values"]
            shares = zip(scale["values"], scale["shares"], strict=True)
            found = [(text == value) - share if known else 0.0 for text, share in shares]
            (columns if scale["slopes"] else levels).extend(found)
            continue
        z[name] = 0.0 if value is None else (logs[scale["scale"]](value) - scale["mean"]) / scale["std"]
        mix = scale.get("mix") or {name: 1.0}
        numbers.append(0.0 if value is None else sum(part * z[other] for other, part in mix.items()))
    return torch.tensor([*numbers, *columns, *levels, *indexed])


def linear_log_odds(model: Json, row: list[float | None]) -> float:
    """Log-odds of a logistic regression: numbers on a log scale, flags of unknown ones, categories, interactions."""
    numbers = [column for column in range(len(row)) if column not in model["categories"]]
    by_column: dict[int, list[float]] = {}
    for column, mean, std in zip(numbers, model["mean"], model["std"], strict=True):
        value = row[column]
        if column in model.get("logs", []):
            scaled = math.log(value) if value is not None and value > 0 else mean
        elif column in model.get("logits", []):
            scaled = math.log(value) - math.log1p(-value) if value is not None and 0 < value < 1 else mean
        else:
            scaled = mean if value is None else math.copysign(math.log1p(abs(value)), value)
        by_column[column] = [(scaled - mean) / std]
    parts = [by_column[column][0] for column in numbers] + [float(row[column] is None) for column in model["missing"]]
    for column, texts in zip(model["categories"], model["texts"], strict=True):
        by_column[column] = [float(row[column] == number) for number in range(texts)]
        parts += by_column[column]
    for number, other in model.get("interactions", []):
        parts += [by_column[number][0] * part for part in by_column[other]]
    return sum(part * weight for part, weight in zip(parts, model["weights"], strict=True)) + model["intercept"]


def tree_log_odds(text: str, rows: list[list[float | None]]) -> list[float]:
    """Log-odds of boosted trees, given as LightGBM's text, of rows of columns; None is unknown."""
    import lightgbm  # only where a prior has boosted trees
    import numpy as np

    table = np.array([[math.nan if cell is None else cell for cell in row] for row in rows], np.float32)
    return np.asarray(lightgbm.Booster(model_str=text).predict(table, raw_score=True)).tolist()


def prior_log_odds(folder: Path, serving: Json, rows: list[list[float | None]]) -> dict[str, list[float]]:
    """Log-odds of every objective's prior, of rows of the columns that serving.json names; None is unknown."""
    columns = serving["priors"]["columns"]
    log_odds: dict[str, list[float]] = {}
    for name, about in serving["priors"]["objectives"].items():
        own = [[row[columns.index(column)] for column in about["columns"]] for row in rows]
        if about["method"] == "column":
            values = [row[0] for row in own]
            if about["scale"] == "probability":
                clipped = [v if v is None else min(max(v, 1e-6), 1 - 1e-6) for v in values]
                values = [v if v is None else math.log(v) - math.log1p(-v) for v in clipped]
            found = [0.0 if value is None else value for value in values]
        elif about["method"] == "linear":
            model = json.loads((folder / about["file"]).read_text("utf-8"))
            found = [linear_log_odds(model, row) for row in own]
        elif about["method"] == "blend":
            model = json.loads((folder / about["file"]).read_text("utf-8"))
            trees = [tree_log_odds(text, own) for text in model["trees"]]
            share, found = model["share"], []  # of the linear model
            for row, each in zip(own, zip(*trees, strict=True), strict=True):
                of_trees = sum(weight * value for weight, value in zip(model["weights"], each, strict=True))
                found.append((1 - share) * of_trees + share * linear_log_odds(model["linear"], row))
        else:
            found = tree_log_odds((folder / about["file"]).read_text("utf-8"), own)
        if about["fallback"]:
            found = _fallen_back(folder, about, own, found)
        log_odds[name] = [min(max(value, -FARTHEST), FARTHEST) for value in found]
        if about["before"]:  # its model is of the whole chain
            log_odds[name] = [
                _divided(row, [log_odds[o][n] for o in about["before"]]) for n, row in enumerate(log_odds[name])
            ]
    return log_odds


def _fallen_back(folder: Path, about: Json, rows: list[list[float | None]], found: list[float]) -> list[float]:
    """Log-odds of a prior, those of its fallback where nothing is known of the shopper."""
    model = json.loads((folder / about["fallback_file"]).read_text("utf-8"))
    column, of_shopper = about["columns"].index(about["fallback"]), map(about["columns"].index, about["of_shopper"])
    unknown = {
        position: (None, 0) if about["columns"][position] in about["counted"] else (None,) for position in of_shopper
    }
    return [
        value if any(row[p] not in values for p, values in unknown.items()) else linear_log_odds(model, [row[column]])
        for row, value in zip(rows, found, strict=True)
    ]


def _divided(chain: float, before: list[float]) -> float:
    """Log-odds of P(chain) / Π P(before)."""

    def log_p(x: float) -> float:
        return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))

    log_share = min(log_p(chain) - sum(map(log_p, before)), math.log(LARGEST_SHARE))
    return min(max(log_share - math.log1p(-math.exp(log_share)), -FARTHEST), FARTHEST)


def text_vectors(folder: Path, serving: Json, texts: list[str]) -> dict[str, torch.Tensor]:
    """Unit vectors (D,) of texts by the base without any adapter: the mean over all of a text's tokens."""
    model = load_base(folder, serving, "features").eval()
    tokenizer = AutoTokenizer.from_pretrained(str(folder / serving["tokenizer"]["path"]))
    longest = serving["comparison"]["max_tokens"]
    vectors = {}
    for text in dict.fromkeys(texts):
        ids = tokenizer([text], truncation=True, max_length=longest, split_special_tokens=True)["input_ids"]
        if ids[0]:
            mean_D = model(input_ids=torch.tensor(ids)).last_hidden_state[0].mean(0)
            vectors[text] = nn.functional.normalize(mean_D, dim=0)
    return vectors


def read_beside(folder: Path, serving: Json, prompts: list[Json], slate: Json) -> float:
    """Make priors and vectors of all golden candidates again, as `beside` of each; largest difference of a prior.

    Of prompts `beside` is a dict: `prior` by objective, `thing`, its vector `candidate` (D,), by text those of all that
    was `taken`, and in `history` those that it is compared with. Of the slate it is a list of these.
    """
    if not serving.get("priors") and not serving.get("comparison"):
        return 0.0
    everything = [*prompts, slate]
    vectors: dict[str, torch.Tensor] = {}
    if serving.get("comparison"):
        texts = [text for each in everything for text in (*each["history"], *each["things"]) if text]
        vectors = text_vectors(folder, serving, texts)
    worst = 0.0
    for each in everything:
        priors = prior_log_odds(folder, serving, each["columns"]) if serving.get("priors") else {}
        for name, values in priors.items():
            worst = max(worst, *(difference(a, b) for a, b in zip(values, each["prior"][name], strict=True)))
        count = len(each["columns"] if serving.get("priors") else each["things"])
        beside: list[Json] = [{"prior": {name: row[n] for name, row in priors.items()}} for n in range(count)]
        for entry, text in zip(beside, each.get("things", []), strict=False):
            taken = {past: vectors[past] for past in each["history"] if past in vectors}
            entry |= {"thing": text, "candidate": vectors.get(text), "taken": taken}
            entry["history"] = [vector for past, vector in taken.items() if past != text] if text in vectors else []
        each["beside"] = beside if each is slate else beside[0]
    return worst


def pooled(head: Json, beside: Json) -> list[float]:
    """The products of a candidate with each thing of its history, pooled."""
    if not beside["history"]:
        return [0.0] * (3 + len(BEST))
    of_candidate_Q = head["comparison.of_candidate.weight"] @ beside["candidate"]
    products_H = torch.stack(beside["history"]) @ head["comparison.of_history.weight"].T @ of_candidate_Q
    soft = max((torch.logsumexp(SHARPNESS * products_H, 0) / SHARPNESS).item(), LOWEST)
    ordered = [max(value, -1.0) for value in products_H.sort(descending=True).values.tolist()]
    ordered += [-1.0] * (max(BEST) - len(ordered))
    means = [sum(ordered[:few]) / few for few in BEST]
    return [soft, products_H.mean().item(), math.log1p(len(products_H)), *means]


def beside_text(head: Json, name: str, beside: Json, x_F: torch.Tensor) -> torch.Tensor:
    """What stands beside the text of one candidate: a · prior + b, and the comparison with the history."""
    total, columns = torch.zeros(()), x_F.tolist()
    if "moved" in head:
        prior = beside["prior"][name]
        total = total + (1.0 + head["moved"][0]) * prior + head["moved"][1]
        columns.append(prior)
    if "comparison.out.weight" in head:
        products = pooled(head, beside)
        read = torch.tensor([*columns, *products])
        total = total + head["comparison.straight.weight"][0] @ torch.tensor(products)
        for layer in ("enter", "mix"):
            weight, bias = head[f"comparison.{layer}.weight"], head[f"comparison.{layer}.bias"]
            read = nn.functional.gelu(nn.functional.linear(read, weight, bias))
        total = total + nn.functional.linear(read, head["comparison.out.weight"], head["comparison.out.bias"])[0]
    return total


def level_number(scale: Json, value: str | None) -> int:
    """The number of a text's level, −1 where it has none."""
    if value is None:
        return -1
    if scale.get("hashed"):
        return int.from_bytes(hashlib.md5(value.encode()).digest()[:8], "big") % scale["hashed"]
    return scale["values"].index(value) if value in scale["values"] else -1


def rates_of(serving: Json) -> list[float]:
    """The factors before levels that are looked up by number, in the order of their columns."""
    read = [scale for scale in serving.get("features", {}).values() if scale.get("heads", True)]
    return [scale["rate"] for scale in read if scale.get("hashed") or scale.get("levels")]


def head_logit(
    head: Json,
    vector_H: torch.Tensor,
    features_F: torch.Tensor,
    rates: list[float],
    name: str = "",
    beside: Json | None = None,
) -> float:
    """Raw output of a pointwise head that lies beside an adapter: its linear map, and what features add.

    `rates`: from `rates_of`. Of an objective `name` with a prior or a comparison, `beside` holds what `read_beside`
    made.
    """
    total = head["score.weight"][0] @ vector_H
    numbers = len(head.get("response.out.bias", ()))
    sloping = head["response.cross.weight"].shape[1] if "response.cross.weight" in head else 0
    biased = len(features_F) - numbers - sloping - len(rates)
    x_F, y_C, w_L, index_I = features_F.split([numbers, sloping, biased, len(rates)])
    if numbers:
        entered = nn.functional.linear(vector_H, head["response.enter.weight"], head["response.enter.bias"])
        slopes_F = nn.functional.linear(
            nn.functional.gelu(entered), head["response.out.weight"], head["response.out.bias"]
        )
        total = total + slopes_F @ x_F
    if len(y_C):  # of every category its own slopes, then its own level
        own = CATEGORY_SPEED * head["response.cross.weight"] @ y_C
        total = total + own[:numbers] @ x_F + own[numbers]
    if len(w_L):
        total = total + CATEGORY_SPEED * head["response.level.weight"][0] @ w_L
    for position, (index, rate) in enumerate(zip(index_I.long().tolist(), rates, strict=True)):
        if index >= 0:
            total = total + rate * head[f"response.indexed.{position}.weight"][index, 0]
    return (total + beside_text(head, name, beside or {}, x_F)).item()


def logit(model: Any, serving: Json, name: str, head: Json | None, prompt: Json) -> float:
    """Raw head output of a pointwise objective for one prompt; `head` is the file beside a `features` adapter.

    A prompt holds `input_ids`, `prefix_tokens` and, where the head reads them, `features`, the values of serving.json's
    features as tables tell them, null where unknown, and what `read_beside` made.
    """
    input_ids, prefix_tokens = prompt["input_ids"], prompt["prefix_tokens"]
    if head is None:
        with acting(model, serving, [prefix_tokens], len(input_ids)):
            where = places(serving, [prefix_tokens], len(input_ids))
            return model(input_ids=torch.tensor([input_ids]), **where).logits[0, 0].item()
    vector = candidate_vector(model, serving, input_ids, prefix_tokens)
    features = standardised(serving, prompt.get("features", {}))
    return head_logit(head, vector, features, rates_of(serving), name, prompt.get("beside"))


def slate_delta(head: Json, heads: int, vectors_MH: torch.Tensor, relevance_M: torch.Tensor) -> torch.Tensor:
    """δ (M,) of a slate's candidates: one self-attention block over them."""

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, head[f"{name}.weight"], head.get(f"{name}.bias"))

    x_MW = linear("enter", vectors_MH) + linear("relevance", relevance_M[:, None])
    count, width = x_MW.shape
    normed_MW = nn.functional.layer_norm(x_MW, (width,), head["norm.weight"], head["norm.bias"])
    q, k, v = linear("qkv", normed_MW).view(count, 3, heads, width // heads).permute(1, 2, 0, 3)
    attended = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(width // heads), dim=-1) @ v
    x_MW = x_MW + linear("mix", attended.transpose(0, 1).reshape(count, width))
    return linear("out", nn.functional.gelu(x_MW)).squeeze(-1)


def relevance(serving: Json, logits: dict[str, list[float]]) -> torch.Tensor:
    """r (M,) = Σ v log p over the pointwise objectives, from their raw logits."""
    exponents = serving.get("relevance_exponents") or dict.fromkeys(logits, 1.0)
    total = torch.zeros(len(next(iter(logits.values()))))
    for name, exponent in exponents.items():
        about = serving["objectives"][name]
        output = torch.tensor(logits[name]) + about["logit_offset"]
        logs = {
            "sigmoid": nn.functional.logsigmoid,
            "exp": lambda x: x,
            "softplus": lambda x: nn.functional.softplus(x).log(),
        }
        log = logs[about.get("link", "sigmoid")](output) + math.log(about.get("scale", 1.0))
        total = total + exponent * log
    return total


def fill_list(
    lists: Json, utility: list[float], delta: Json, attributes: Json, omega: dict[str, float], count: int
) -> list[int]:
    """The candidates of the first `count` places, by `lists` of serving.json; `attributes`: NAME → each one's value.

    At place t, d_t = 1 / log2(t + 1), a candidate counts d_t (w + Σ ω p / D) + Σ ω exp(δ) 2 / (K (K − 1)) Σ distances:
    w its share of the value of the ideal list of K places, p its group's price plus δ, D the sum of the K discounts,
    distances those to the candidates that are placed, the share of the attribute path that disagrees.
    """
    places, top = lists["places"], max(utility)
    discount = [1 / math.log2(place + 2) for place in range(max(places, count))]
    gain = [math.exp(u - top) for u in utility]
    ideal = sum(d * g for d, g in zip(discount[:places], sorted(gain, reverse=True), strict=False))
    score = [g / ideal for g in gain]
    spread = {}
    for name, term in lists["terms"].items():
        if term["kind"] == "price" and omega.get(name):
            values = attributes[term["attributes"][0]]
            for i, value in enumerate(values):
                price = term["prices"].get(value, 0.0) + delta[name][i]
                score[i] += omega[name] * price / sum(discount[:places])
        elif term["kind"] == "spread" and omega.get(name):
            paths = list(zip(*(attributes[each] for each in term["attributes"]), strict=True))
            strength = omega[name] * 2 / (places * max(places - 1, 1))
            spread[name] = ([strength * math.exp(min(max(d, -3.0), 3.0)) for d in delta[name]], paths)
    apart = {name: [0.0] * len(score) for name in spread}
    left, chosen = list(range(len(score))), []
    for place in range(min(count, len(score))):
        added = [sum(wish[i] * apart[name][i] for name, (wish, _) in spread.items()) for i in range(len(score))]
        best = max(left, key=lambda i: discount[place] * score[i] + added[i])
        left.remove(best)
        chosen.append(best)
        for name, (_, paths) in spread.items():
            for i, path in enumerate(paths):
                agree = [path[: level + 1] == paths[best][: level + 1] for level in range(len(path))]
                apart[name][i] += 1 - sum(agree) / len(path)
    return chosen


def number(about: Json, logit: float) -> float:
    """The probability, value or count that a raw logit stands for."""
    x = torch.tensor(logit + about["logit_offset"], dtype=torch.float64)
    links = {"sigmoid": torch.sigmoid, "identity": lambda x: x, "softplus": nn.functional.softplus, "exp": torch.exp}
    return about.get("scale", 1.0) * links[about.get("link", "sigmoid")](x).item()


def calibrated(about: Json, logit: float) -> float:
    """The probability after the calibration in serving.json, from a raw logit."""
    x, rule = logit + about["logit_offset"], about["calibration"]
    if rule["method"] == "platt":
        x = rule["slope"] * x + rule["intercept"]
    else:
        knots = list(zip(rule["logits"], rule["calibrated"], strict=True))
        after = next((i for i, (knot, _) in enumerate(knots) if knot > x), len(knots))
        (left, low), (right, high) = knots[max(after - 1, 0)], knots[min(after, len(knots) - 1)]
        x = low + (x - left) * ((high - low) / (right - left) if right > left else 1.0)
    return 1 / (1 + math.exp(-x))


def difference(value: float, golden: float) -> float:
    """Absolute below 1, relative above; NaN counts as infinite."""
    distance = abs(value - golden) / max(1.0, abs(golden))
    return distance if math.isfinite(distance) else math.inf


def check_tokens(folder: Path, serving: Json, prompts: list[Json]) -> None:
    """The layout in serving.json must turn the golden texts into the golden ids."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder / serving["tokenizer"]["path"]))
    for number, prompt in enumerate(prompts):
        prefix, candidate = prompt_ids(
            tokenizer, serving["layout"], prompt["prefix"], prompt["item"], prompt["context"]
        )
        if [*prefix, *candidate] != prompt["input_ids"] or len(prefix) != prompt["prefix_tokens"]:
            raise SystemExit(f"golden prompt {number}: the exported tokenizer gives other ids than the training's")


def read_head(folder: Path, about: Json) -> Json | None:
    """The head beside an objective's weights in `folder`; None where the class has it inside."""
    return load_file(folder / about["head"]) if about["head"] else None


def check_logits(model: Any, serving: Json, name: str, head: Json | None, prompts: list[Json]) -> float:
    """Largest difference of one pointwise objective's logits and probabilities; classifiers also in padded batches."""
    about = serving["objectives"][name]
    golden = [prompt["logit"][name] for prompt in prompts]
    logits = [logit(model, serving, name, head, prompt) for prompt in prompts]
    worst = [difference(a, b) for a, b in zip(logits, golden, strict=True)]
    for value, prompt in zip(logits, prompts, strict=True):
        expected = prompt["prediction" if "link" in about else "probability"][name]
        worst.append(difference(number(about, value), expected))
        if "calibration" in about:
            worst.append(difference(calibrated(about, value), prompt["calibrated"][name]))
    if head is None:
        rows = prompts[:8]
        width = max(len(prompt["input_ids"]) for prompt in rows)
        pad = model.config.pad_token_id
        ids = [prompt["input_ids"] + [pad] * (width - len(prompt["input_ids"])) for prompt in rows]
        prefixes = [prompt["prefix_tokens"] for prompt in rows]
        with acting(model, serving, prefixes, width):
            batch = model(input_ids=torch.tensor(ids), **places(serving, prefixes, width)).logits[:, 0].tolist()
        worst += [difference(a, b) for a, b in zip(batch, golden, strict=False)]
    return max(worst)


def check_slate(model: Any, serving: Json, name: str, head: Json, slate: Json) -> float:
    """Largest difference of one list-wise objective's δ on the golden slate."""
    prefix = slate["prefix_ids"]
    vectors = [candidate_vector(model, serving, [*prefix, *ids], len(prefix)) for ids in slate["candidate_ids"]]
    heads = serving["objectives"][name]["heads"]
    deltas = slate_delta(head, heads, torch.stack(vectors), relevance(serving, slate["logit"]))
    return max(difference(a, b) for a, b in zip(deltas.tolist(), slate["delta"][name], strict=True))


def check_adapter(folder: Path, serving: Json, name: str, prompts: list[Json], slate: Json) -> float:
    """Largest difference of one objective's adapter on the stock base."""
    about = serving["objectives"][name]
    model = load_adapter(folder, serving, name)
    head = read_head(folder / about["folder"], about)
    if about["kind"] == "pointwise":
        return check_logits(model, serving, name, head, prompts)
    return check_slate(model, serving, name, head or {}, slate)


def main(folder: Path, base: str | None = None) -> int:
    """Check the export in `folder`; returns the exit code. `base`: path of the base model, where it is elsewhere."""
    try:
        serving = json.loads((folder / "serving.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{folder / 'serving.json'} cannot be read ({error})") from error
    check_record(serving)
    check_files(folder, serving)
    if base is not None:
        serving["base"] |= {"path": base, "inside_export": False, "relative": None, "revision": None}
    prompts = [json.loads(line) for line in (folder / "golden.jsonl").read_text("utf-8").splitlines()]
    slate = json.loads((folder / "golden_slate.json").read_text("utf-8"))
    check_tokens(folder, serving, prompts)
    tolerance: dict[str, float] = {}
    with torch.inference_mode():
        priors = read_beside(folder, serving, prompts, slate)
        worst = {name: check_adapter(folder, serving, name, prompts, slate) for name in serving["objectives"]}
        if serving.get("formats"):
            from check_formats import check_formats  # beside this file, where there is more than adapters

            further, tolerance = check_formats(folder, serving, prompts, slate)
            worst |= further
    if serving.get("priors"):
        worst["priors"] = priors
    if serving.get("lists"):
        made = json.loads((folder / "golden_lists.json").read_text("utf-8"))
        asked = [made[key] for key in ("utility", "delta", "attributes", "omega", "count")]
        worst["lists"] = 0.0 if fill_list(serving["lists"], *asked) == made["order"] else math.inf
    passed = all(value <= tolerance.get(name, serving["tolerance"]) for name, value in worst.items())
    differences = ", ".join(f"{name} {value:.1e}" for name, value in worst.items())
    verdict = "passed" if passed else "FAILED"
    print(f"golden check {verdict}: {len(prompts)} prompts, max difference {max(worst.values()):.1e} ({differences})")
    return 0 if passed else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Check an export with plain torch, transformers and peft.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent, help="of the export")
    parser.add_argument("--base", help="where the base model is: a folder or a hub id")
    asked = parser.parse_args()
    sys.dont_write_bytecode = True  # what it imports lies in the export
    sys.exit(main(asked.folder.resolve(), asked.base))

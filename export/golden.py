"""Golden prompts of an export with the trained model's own scores, and the check of them without this project."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equipoise.common.calibration import Calibrations
from equipoise.common.errors import UserError
from equipoise.common.link import Link
from equipoise.common.lists import ListRule, one_request
from equipoise.configs.schema import RunConfig
from equipoise.data.batches import Slate, build_batch
from equipoise.data.features import Scales, read_by_heads, standardised
from equipoise.data.prompts import is_missing
from equipoise.data.slate_set import ItemTable, SlateSet
from equipoise.data.things import ThingTexts
from equipoise.data.tokens import SlateTokenizer
from equipoise.export.beside_text import PreparedThings
from equipoise.export.check_process import CHECK
from equipoise.export.serving_record import TOLERANCE, PromptLayout
from equipoise.modeling.beside_text import NO_TEXTS, BesideText, Things
from equipoise.modeling.model import SlateModel

PROMPTS = "golden.jsonl"
SLATE = "golden_slate.json"
LISTS = "golden_lists.json"
SLATE_CANDIDATES = 8
"""How many candidates of one slate are scored together, at most."""

FORMATS_CHECK = "check_formats.py"


@dataclass(frozen=True)
class Prompt:
    """One candidate of one slate: its texts, their token ids, and its features as cells of a table (None: unknown).

    `things`: what it is compared with, where the model has priors or compares. `number`: of the item.
    """

    slate: int
    prefix: str
    item: str
    context: str
    prefix_ids: list[int]
    candidate_ids: list[int]
    features: dict[str, float | str | None] = field(default_factory=dict)
    things: ThingTexts | None = None
    number: int = -1


@dataclass(frozen=True)
class GoldenPrompts:
    """Prompts to score singly, the candidates of one slate, and the layout of their ids."""

    singles: list[Prompt]
    slate: list[Prompt]
    layout: PromptLayout


def read_prompts(
    slates: SlateSet, tokenizer: Any, config: RunConfig, encoder: bool, golden: int, known: Things | None = None
) -> GoldenPrompts:
    """Read up to `golden` prompts, spread over the slates of a split, and some candidates of one slate.

    Args:
        slates: the test split.
        tokenizer: the backbone's Hugging Face tokenizer.
        config: of the run, for the token limits.
        encoder: whether the backbone is an encoder.
        golden: how many prompts.
        known: things of the export, where prices are held against rivals in the slate.
    """
    rows = np.unique(np.linspace(0, len(slates) - 1, min(golden, len(slates))).astype(int)).tolist()
    sizes = [len(items) for items in slates.rows.select(rows)["item"]]
    pairs = choose_candidates(rows, sizes, golden)
    largest = int(np.argmax(sizes))
    spread = np.unique(np.linspace(0, sizes[largest] - 1, min(SLATE_CANDIDATES, sizes[largest])).astype(int))
    pairs_slate = [(rows[largest], int(candidate)) for candidate in spread]
    records = {row: slates.rows[row] for row in rows}
    used = sorted({records[row]["item"][candidate] for row, candidate in [*pairs, *pairs_slate]})
    texts = slates.items.table.column("text").take(used).to_pylist()
    text_index = {item: number for number, item in enumerate(used)}
    ids = SlateTokenizer(tokenizer, config.tokens, encoder, texts)  # of the used items alone
    compared = PreparedThings(slates.folder, known) if config.data.comparison is not None else None

    def prompt(row: int, candidate: int) -> Prompt:
        record = records[row]
        item, context = text_index[record["item"][candidate]], record["context"][candidate]
        prefix = record["prefix"]
        values = {name: record[f"feature_{name}"][candidate] for name in slates.manifest.features}
        features = {name: None if is_missing(value) else value for name, value in values.items()}
        candidate_ids = ids.candidates([item], [context])[0]
        things = None if compared is None else compared.of(record, [candidate])
        number = record["item"][candidate]
        return Prompt(row, prefix, texts[item], context, ids.prefix(prefix), candidate_ids, features, things, number)

    layout = PromptLayout(
        start_ids=list(ids.start),
        prefix_end_ids=list(ids.prefix_end),
        candidate_end_ids=list(ids.candidate_end),
        context_separator=ids.separator,
        max_prefix=config.tokens.max_prefix,
        max_candidate=config.tokens.max_candidate,
    )
    return GoldenPrompts([prompt(*pair) for pair in pairs], [prompt(*pair) for pair in pairs_slate], layout)


def choose_candidates(rows: list[int], sizes: list[int], count: int) -> list[tuple[int, int]]:
    """Up to `count` distinct (slate, candidate): round after round one of each slate, at other positions in each."""
    pairs: list[tuple[int, int]] = []
    for turn in range(max(sizes)):
        for row, size in zip(rows, sizes, strict=True):
            if turn < size and len(pairs) < count:
                pairs.append((row, (row * 31 + turn) % size))
    return pairs


@dataclass(frozen=True)
class _Scorer:
    """Scores prompts with the model and what it reads beside them."""

    model: SlateModel
    scales: Scales
    beside: BesideText | None

    def raw(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """Raw features, float64 (M, features), NaN where unknown."""
        cells = [[scale.read(p.features[name]) for name, scale in self.scales.items()] for p in prompts]
        return np.array(cells, dtype=np.float64)  # None becomes NaN

    def score(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        """All outputs (M,) of one slate in one row; pointwise ones with their offset."""
        nothing = np.zeros(len(prompts), dtype=np.int64)
        candidates = [prompt.candidate_ids for prompt in prompts]
        row = len(prompts[0].prefix_ids) + sum(len(ids) for ids in candidates)
        raw = self.raw(prompts)
        features = standardised(self.scales, raw) if read_by_heads(self.scales) else None
        slate = Slate(0, prompts[0].prefix_ids, candidates, nothing, nothing, nothing, features=features)
        if self.beside is not None:
            prior, things = self.beside.of(raw, join_texts(prompts))
            slate = replace(slate, prior=prior, things=things)
        return self.model.score(build_batch([slate], max_row=row, pad_id=0).model_inputs())

    def beside_record(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """What the check needs to make priors and comparisons again, of all prompts."""
        if self.beside is None:
            return {}
        texts = join_texts(prompts)
        record: dict[str, Any] = {}
        if self.beside.compares:
            record = {"history": list(texts.history), "things": list(texts.candidates)}
        if self.beside.priors is not None:
            columns_MF = self.beside.columns(self.raw(prompts), texts)[0]
            known = [[None if np.isnan(cell) else float(cell) for cell in row] for row in columns_MF]
            log_odds = self.beside.priors.log_odds(columns_MF)
            names = self.beside.priors.names
            record |= {"columns": known, "prior": {n: log_odds[:, k].tolist() for k, n in enumerate(names)}}
        return record


def join_texts(prompts: Sequence[Prompt]) -> ThingTexts:
    """What the prompts of one slate are compared with."""
    given = [prompt.things or NO_TEXTS for prompt in prompts]
    candidates = [next(iter(things.candidates), "") for things in given]
    computed = {name: np.concatenate([things.computed[name] for things in given]) for name in given[0].computed}
    return ThingTexts(given[0].history, candidates, computed)


def write_golden(
    folder: Path,
    model: SlateModel,
    prompts: Sequence[Prompt],
    slate: Sequence[Prompt],
    scales: Scales | None = None,
    beside: BesideText | None = None,
    calibrations: Calibrations | None = None,
) -> None:
    """Score and write golden.jsonl (prompts) and golden_slate.json (one slate, with δ where there are towers for it).

    Args:
        folder: of the export.
        model: the trained model in float32 and evaluation form.
        prompts: at least one.
        slate: candidates of one slate.
        scales: how the model's features are standardised.
        beside: reads priors and things of the export; None where the model has neither.
        calibrations: corrections of logits, whose probabilities stand beside the plain ones.

    Raises:
        UserError: the packed slate and its single prompts disagree.
    """
    with torch.inference_mode():
        scorer = _Scorer(model, scales or {}, beside)
        lines = [_prompt_record(scorer, prompt, calibrations or {}) for prompt in prompts]
        packed = _slate_record(scorer, slate)
    (folder / PROMPTS).write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    (folder / SLATE).write_text(json.dumps(packed, ensure_ascii=False, indent=1) + "\n", "utf-8")


def _prompt_record(scorer: _Scorer, prompt: Prompt, calibrations: Calibrations) -> dict[str, Any]:
    model, outputs = scorer.model, scorer.score([prompt])
    corrected = {name: each(outputs[name].double().numpy()).item() for name, each in calibrations.items()}
    calibrated = {name: 1 / (1 + math.exp(-logit)) for name, logit in corrected.items()}
    return {
        "slate": prompt.slate,
        "prefix": prompt.prefix,
        "item": prompt.item,
        "context": prompt.context,
        "input_ids": [*prompt.prefix_ids, *prompt.candidate_ids],
        "prefix_tokens": len(prompt.prefix_ids),
        **({"features": prompt.features} if scorer.scales else {}),
        **scorer.beside_record([prompt]),
        "logit": {name: outputs[name].item() - model.offsets[name] for name in model.pointwise},
        **_numbers(model, outputs),
        **({"calibrated": calibrated} if calibrated else {}),
    }


def _numbers(model: SlateModel, outputs: Mapping[str, torch.Tensor]) -> dict[str, dict[str, float]]:
    """The probabilities, and the values and counts where there are any."""
    links = {name: model.relevance.links.get(name, Link()) for name in model.pointwise}
    others = {n: link.value(outputs[n].numpy()).item() for n, link in links.items() if link.name != "sigmoid"}
    probabilities = {n: outputs[n].sigmoid().item() for n in links if n not in others}
    return {"probability": probabilities, **({"prediction": others} if others else {})}


def _slate_record(scorer: _Scorer, prompts: Sequence[Prompt]) -> dict[str, Any]:
    model, packed = scorer.model, scorer.score(prompts)
    single = [scorer.score([prompt]) for prompt in prompts]
    for name in model.pointwise:
        alone = torch.cat([outputs[name] for outputs in single])
        worst = ((packed[name] - alone).abs() / alone.abs().clamp(min=1)).max().item()
        if not worst <= TOLERANCE:
            raise UserError(
                f"objective '{name}': a packed slate and its single prompts differ by {worst:.1e} (at most "
                f"{TOLERANCE:.0e} is allowed), so this backbone cannot be served as it was trained: choose another"
            )
    return {
        "slate": prompts[0].slate,
        "prefix": prompts[0].prefix,
        "items": [prompt.item for prompt in prompts],
        "contexts": [prompt.context for prompt in prompts],
        "prefix_ids": prompts[0].prefix_ids,
        "candidate_ids": [prompt.candidate_ids for prompt in prompts],
        **({"features": [prompt.features for prompt in prompts]} if scorer.scales else {}),
        **scorer.beside_record(prompts),
        "logit": {name: (packed[name] - model.offsets[name]).tolist() for name in model.pointwise},
        "delta": {name: packed[name].tolist() for name in model.listwise},
    }


def write_golden_lists(
    folder: Path, model: SlateModel, rule: ListRule, slate: Sequence[Prompt], items: ItemTable
) -> None:
    """Write golden_lists.json: the whole list of the golden slate with every objective at ω = 1."""
    packed = json.loads((folder / SLATE).read_text("utf-8"))
    outputs = {name: torch.tensor(values) + model.offsets[name] for name, values in packed["logit"].items()}
    utility = model.relevance(outputs).double().numpy()
    omega = {name: 1.0 for name, term in rule.terms.items() if term.kind != "adjust"}
    numbers = [prompt.number for prompt in slate]
    values = {name: items.values(name)[numbers].tolist() for name in rule.attributes()}
    made = one_request(rule, packed["delta"], values)(utility[None], omega, len(slate))
    record = {
        "utility": utility.tolist(),
        "delta": packed["delta"],
        "attributes": values,
        "omega": omega,
        "count": len(slate),
        "order": made.order(0),
    }
    (folder / LISTS).write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", "utf-8")


def write_check(folder: Path, formats: bool = False) -> None:
    """Put the self-contained check script into the export, and the one for further formats where it has some."""
    shutil.copyfile(Path(__file__).with_name("golden_check.py"), folder / CHECK)
    if formats:
        shutil.copyfile(Path(__file__).with_name("format_check.py"), folder / FORMATS_CHECK)

"""README.md of an export: the model card, with code that runs as it stands."""

from collections.abc import Mapping, Sequence
from typing import Any

from equipoise.configs.schema import RunConfig
from equipoise.export import card_loading
from equipoise.export.card_metadata import front_matter
from equipoise.export.card_serving import serving_section
from equipoise.export.golden import Prompt

OPERATING_POINT = "## Operating point"
_FROM_HUB = """\
Of a copy on the Hugging Face Hub, fetch the files (`hf download REPO --local-dir .`) and go on in that folder. PEFT
alone reads an adapter from there by `PeftModel.from_pretrained(base, "REPO", subfolder="NAME")`.

"""
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
    source: str,
    hidden: int,
    report: Mapping[str, Any] | None,
    slate: Sequence[Prompt],
) -> str:
    """The model card as Markdown.

    Args:
        config: the run's config.
        serving: the content of serving.json.
        counts: one sentence about the data that the run was trained on.
        source: of these data.
        hidden: width of the base model.
        report: the run's evaluation of the test split, if there is one.
        slate: candidates of one golden slate, for example requests.
    """
    objectives: Mapping[str, Any] = serving["objectives"]
    parts = [
        front_matter(config.name, serving, source, report),
        f"# {config.name}\n\nOne LoRA adapter per objective for `{config.backbone.path}`, trained together.\n",
        _objectives_table(objectives),
        _base(serving),
        f"## Data\n\n{counts}\n",
        _prompts(serving),
        "## Loading\n\n" + _FROM_HUB + card_loading.pointwise(serving),
        _beside_text(serving),
        _calibrated(objectives),
        card_loading.listwise(objectives, hidden),
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
        kind = {
            "trees": "boosted trees",
            "linear": "a logistic regression",
            "blend": "boosted trees and a logistic regression",
            "column": "a score of the request",
        }
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
        "(with LightGBM where a prior has boosted trees); the server and `equipoise recommend` do it by themselves. "
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

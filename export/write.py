"""equipoise export: writes one PEFT adapter per objective and further formats, proved without this project."""

import gc
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from equipoise.common.atomic import atomic_dir
from equipoise.common.errors import UserError
from equipoise.configs.load import read_run_config
from equipoise.configs.schema import RunConfig
from equipoise.data.manifest import Manifest
from equipoise.data.prompts import is_missing
from equipoise.data.slate_set import SlateSet
from equipoise.data.tokens import SlateTokenizer
from equipoise.export import serving
from equipoise.export.activated import why_not_activated
from equipoise.export.adapter_folder import ExportedAdapter, write_adapter
from equipoise.export.card import render_card
from equipoise.export.catalogue import write_catalogue
from equipoise.export.formats import Formats, judge_for_vllm, write_from_adapters, write_from_model
from equipoise.export.golden import Prompt, write_golden
from equipoise.export.item_vectors import export_recall
from equipoise.export.onnx_graph import FOLDER as ONNX
from equipoise.export.onnx_graph import REPORT as ONNX_REPORT
from equipoise.export.onnx_report import report_table
from equipoise.export.operating_point import read_operating_point
from equipoise.export.served import ServedClass, serve_as
from equipoise.export.verify import run_check, write_check
from equipoise.modeling.adapter_store import read_info
from equipoise.modeling.backbone import load_tokenizer
from equipoise.modeling.model import SlateModel
from equipoise.modeling.run_model import load_run_model

REPORT = "evaluation_test.json"
SLATE_CANDIDATES = 8
SCOPED = (
    "note: these adapters act on candidate tokens alone (lora.scope: candidates), as in check_golden.py; servers that "
    "apply LoRA to every token, such as vLLM, need a training with lora.scope=all"
)


def run(run: Path, out: Path, golden: int = 32, overwrite: bool = False, formats: Formats | None = None) -> None:
    """Export the adapters of a finished run to `out`, which appears only once its golden check has passed.

    Args:
        run: folder that `equipoise train` wrote.
        out: folder to write.
        golden: number of golden prompts from the test split.
        overwrite: replace an earlier export in `out`.
        formats: what to write beside the adapters.

    Raises:
        UserError: the run is incomplete or does not fit its base model, data or a format, `out` exists, or the check
            fails.
    """
    console = Console(highlight=False)
    config = read_run_config(run)
    formats = formats or Formats()
    formats.check(config)
    read_info(run / "adapters")
    read_operating_point(run)  # one that does not fit is refused before the model is loaded
    if golden < 1:
        raise UserError(f"--golden {golden} proves nothing: ask for at least 1 prompt")
    _check_target(run, out, overwrite)
    with atomic_dir(out) as folder, console.status("exporting") as status:
        written = _write(run, config, folder, out, golden, formats, console, status.update)
        gc.collect()  # the trained model, before the check loads its own
        status.update("checking with plain transformers + peft")
        differences = run_check(folder)
    console.print(_summary(written, differences, out))
    record = json.loads((out / serving.FILE_NAME).read_text("utf-8"))
    _tell(console, config, record, out)


def _tell(console: Console, config: RunConfig, record: dict[str, Any], out: Path) -> None:
    """What the summary's figures do not say: how the graphs compare, and who cannot serve the adapters."""
    if "onnx" in record["formats"]:
        console.print(report_table(json.loads((out / ONNX / ONNX_REPORT).read_text("utf-8"))))
    if config.lora.scope == "candidates":
        console.print(SCOPED, soft_wrap=True)
    why = why_not_activated(config.lora.scope, record["mask"] == "prefix", config.backbone.quantize is not None)
    if why:
        console.print(f"note: no activated-LoRA form is written: {why}", soft_wrap=True)


def _check_target(run: Path, out: Path, overwrite: bool) -> None:
    if run.resolve().is_relative_to(out.resolve()):
        raise UserError(f"{out} holds the run itself: name another folder to export to")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / serving.FILE_NAME).is_file():
        raise UserError(f"{out} exists and is no export: name another folder")
    if not overwrite:
        raise UserError(f"{out} holds an earlier export: name another folder or add --overwrite")


def _write(
    run: Path,
    config: RunConfig,
    folder: Path,
    out: Path,
    golden: int,
    formats: Formats,
    console: Console,
    tell: Callable[[str], None],
) -> list[ExportedAdapter]:
    """Everything of an export but its check."""
    slates = SlateSet(config.data.folder, "test")
    if config.backbone.init == "random":
        serving.save_random_base(config, folder / serving.BASE_FOLDER)
    in_full = {
        "backbone": serving.golden_backbone(config.backbone, folder),
        "train": config.train.model_copy(update={"precision": "fp32"}),
    }
    served_config = config.model_copy(update=in_full)
    model = load_run_model(served_config, run / "adapters")
    tokenizer = load_tokenizer(config.backbone)
    tokenizer.save_pretrained(str(folder / serving.TOKENIZER_FOLDER))
    prompts = read_prompts(slates, tokenizer, config, model.backbone.encoder, golden)
    write_golden(folder, model, prompts.singles, prompts.slate, slates.manifest.features)
    written, served = _write_adapters(config, model, folder, out)
    pad_id = serving.choose_pad_id(model.backbone.config, tokenizer, prompts.layout.candidate_end_ids)
    info = read_info(run / "adapters")
    record = serving.serving_record(config, info, model, served, prompts.layout, pad_id)
    record |= write_catalogue(folder, slates, config)
    record |= export_recall(folder, config, model, _base_of(config, out), tokenizer, slates, tell)
    record["operating_point"] |= read_operating_point(run)
    formats.need_room(model, folder, console)
    record["vllm"] = judge_for_vllm(config, model, served, folder)
    layout, hidden = prompts.layout, model.backbone.config.hidden_size
    invocation = layout.prefix_end_ids or layout.candidate_end_ids
    base = _base_of(config, out)
    record["formats"] = write_from_model(formats, config, model, served, folder, base, invocation)
    del model  # merged checkpoints load the base once more
    gc.collect()
    record["formats"] |= write_from_adapters(formats, folder, record)
    (folder / serving.FILE_NAME).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")
    report = _copy_report(run, folder)
    counts = _data_sentence(config, slates.manifest)
    card = render_card(config, record, counts, hidden, report, prompts.slate)
    (folder / "README.md").write_text(card, "utf-8")
    write_check(folder, formats=bool(record["formats"]))
    return written


def _base_of(config: RunConfig, out: Path) -> tuple[str, str | None]:
    """Path and revision of the base for adapter_config.json: a random one lies in the export, at its final place."""
    base = serving.base_path(config.backbone)
    if config.backbone.init == "random":
        return str(out.resolve() / base), None
    return base, config.backbone.revision


def _write_adapters(
    config: RunConfig, model: SlateModel, folder: Path, out: Path
) -> tuple[list[ExportedAdapter], dict[str, ServedClass]]:
    """Write every objective's folder; decoders with a stock `score` head serve pointwise objectives as classifiers."""
    base_config, targets = model.backbone.config, config.lora.targets
    features = serve_as(base_config, "features", targets)
    assert features is not None, "every backbone has a class without head"
    stock = not model.backbone.encoder and not model.features  # a stock classifier reads no features
    classifier = serve_as(base_config, "sequence_classification", targets) if stock else None
    served = {name: (name in model.pointwise and classifier) or features for name in model.objectives}
    base, revision = _base_of(config, out)
    written = [
        write_adapter(folder / name, model, name, served[name], config.lora, base, revision)
        for name in model.objectives
    ]
    return written, served


@dataclass(frozen=True)
class GoldenPrompts:
    """Prompts to score singly, the candidates of one slate, and the layout of their ids."""

    singles: list[Prompt]
    slate: list[Prompt]
    layout: serving.PromptLayout


def read_prompts(slates: SlateSet, tokenizer: Any, config: RunConfig, encoder: bool, golden: int) -> GoldenPrompts:
    """Read up to `golden` prompts, spread over the slates of a split, and some candidates of one slate.

    Args:
        slates: the test split.
        tokenizer: the backbone's Hugging Face tokenizer.
        config: of the run, for the token limits.
        encoder: whether the backbone is an encoder.
        golden: how many prompts.
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
    place = {item: number for number, item in enumerate(used)}
    ids = SlateTokenizer(tokenizer, config.tokens, encoder, texts)  # of the used items alone

    def prompt(row: int, candidate: int) -> Prompt:
        record = records[row]
        item, context = place[record["item"][candidate]], record["context"][candidate]
        prefix = record["prefix"]
        values = {name: record[f"feature_{name}"][candidate] for name in slates.manifest.features}
        told = {name: None if is_missing(value) else value for name, value in values.items()}
        own = ids.candidates([item], [context])[0]
        return Prompt(row, prefix, texts[item], context, ids.prefix(prefix), own, told)

    layout = serving.PromptLayout(
        start_ids=list(ids.start),
        prefix_end_ids=list(ids.prefix_end),
        candidate_end_ids=list(ids.candidate_end),
        context_separator=ids.separator,
        max_prefix=config.tokens.max_prefix,
        max_candidate=config.tokens.max_candidate,
    )
    return GoldenPrompts([prompt(*pair) for pair in pairs], [prompt(*pair) for pair in pairs_slate], layout)


def choose_candidates(rows: list[int], sizes: list[int], count: int) -> list[tuple[int, int]]:
    """Up to `count` distinct (slate, candidate): round after round one of each slate, at other places in each."""
    pairs: list[tuple[int, int]] = []
    for turn in range(max(sizes)):
        for row, size in zip(rows, sizes, strict=True):
            if turn < size and len(pairs) < count:
                pairs.append((row, (row * 31 + turn) % size))
    return pairs


def _copy_report(run: Path, folder: Path) -> dict[str, Any] | None:
    if not (run / REPORT).is_file():
        return None
    shutil.copyfile(run / REPORT, folder / REPORT)
    return json.loads((run / REPORT).read_text("utf-8"))


def _data_sentence(config: RunConfig, manifest: Manifest) -> str:
    train = manifest.splits["train"]
    return (
        f"Source `{manifest.source}`, prepared in `{config.data.folder}`. Trained on {train.impressions:,} impressions "
        f"in {train.requests:,} requests from {train.first[:10]} to {train.last[:10]}: {train.clicks:,} clicks, "
        f"{train.conversions:,} conversions, {train.clicked_conversions:,} of them after a click."
    )


def _summary(written: list[ExportedAdapter], differences: dict[str, float], out: Path) -> Table:
    table = Table(title=f"exported {out}", title_justify="left")
    table.add_column("objective")
    table.add_column("task type", no_wrap=True)
    for name in ("tensors", "parameters", "size", "max golden diff"):
        table.add_column(name, justify="right")
    for adapter in written:
        table.add_row(
            adapter.objective,
            adapter.task_type,
            f"{adapter.tensors:,}",
            f"{adapter.parameters:,}",
            f"{adapter.size / 2**20:.2f} MiB",
            f"{differences[adapter.objective]:.1e}",
        )
    further: dict[str, list[float]] = {}
    for name, value in differences.items():
        if "/" in name:
            further.setdefault(name.partition("/")[0], []).append(value)
    for kind, values in further.items():
        size = sum(file.stat().st_size for file in (out / kind).rglob("*") if file.is_file())
        table.add_row(f"{kind}/", "–", "–", "–", f"{size / 2**20:.2f} MiB", f"{max(values):.1e}")
    return table

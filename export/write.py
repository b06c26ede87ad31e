"""equipoise export: writes one PEFT adapter per objective and further formats, proved without this project."""

import gc
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from equipoise.common.atomic import atomic_dir, refuse_unwritable
from equipoise.common.console import new_console, new_table
from equipoise.common.errors import UserError
from equipoise.common.logs import rendered
from equipoise.common.sealed import seal
from equipoise.configs.load import read_run_config
from equipoise.configs.schema import RunConfig
from equipoise.data.manifest import Manifest
from equipoise.data.rates import FOLDER as RATES_FOLDER
from equipoise.data.remote_copy import bring
from equipoise.data.slate_set import SlateSet
from equipoise.export import onnx
from equipoise.export.adapters import ExportedAdapter, ServedClass, serve_as, write_adapter
from equipoise.export.beside_text import write_beside_text
from equipoise.export.card import render_card
from equipoise.export.catalogue import write_catalogue
from equipoise.export.check_process import CheckProcess, run_check
from equipoise.export.files import files_of, make_readable
from equipoise.export.formats import (
    Formats,
    judge_for_sglang,
    judge_for_vllm,
    why_not_activated,
    write_from_adapters,
    write_from_model,
)
from equipoise.export.golden import read_prompts, write_check, write_golden, write_golden_lists
from equipoise.export.load import open_beside_text
from equipoise.export.onnx_check import report_table
from equipoise.export.operating_point import adds_to_utility, read_operating_point
from equipoise.export.recall_catalogue import export_recall
from equipoise.export.request_schema import write_request_schema
from equipoise.export.serving_record import (
    BASE_FOLDER,
    FILE_NAME,
    TOKENIZER_FOLDER,
    base_path,
    choose_pad_id,
    golden_backbone,
    save_base,
    serving_record,
    write_serving_record,
)
from equipoise.modeling.adapter_store import AdapterInfo, read_info
from equipoise.modeling.base_config import load_tokenizer
from equipoise.modeling.base_identity import refuse_other_inputs
from equipoise.modeling.model import SlateModel
from equipoise.modeling.run_model import load_run_model
from equipoise.train.best_adapters import run_adapters, warn_unfinished, which_adapters
from equipoise.train.calibration import read_calibration_lines, read_calibrations
from equipoise.train.data_record import refuse_other_data
from equipoise.train.list_fit import run_rule
from equipoise.train.thing_vectors import find_vectors

log = logging.getLogger(__name__)
REPORT = "evaluation_test.json"
SCOPED = (
    "note: these adapters act on candidate tokens alone (lora.scope: candidates), as in check_golden.py; servers that "
    "apply LoRA to every token, such as vLLM, need a training with lora.scope=all"
)


def export_run(
    run: str | Path,
    out: str | Path,
    golden: int = 32,
    overwrite: bool = False,
    formats: Formats | None = None,
    overrides: Sequence[str] = (),
    check: CheckProcess | None = None,
) -> None:
    """Export the adapters of a finished run to `out`, which appears only once its golden check has passed.

    Args:
        run: folder that `equipoise train` wrote.
        out: folder to write.
        golden: number of golden prompts from the test split.
        overwrite: replace an earlier export in `out`.
        formats: what to write besides the adapters.
        overrides: settings to change, as `key.sub=value`, such as evaluate.adapters=last.
        check: one of equipoise.export.check_process that was begun ahead of time; None begins it when it is needed.

    Raises:
        UserError: the run is incomplete or does not fit its base model, data or a format, `out` exists, or the check
            fails.
    """
    run, out = Path(run), Path(out)
    config = read_run_config(run, overrides)
    bring(config.data)
    formats = formats or Formats()
    formats.check(config)
    adapters = run_adapters(run, config)
    log.info(which_adapters(adapters))
    warn_unfinished(run)
    info = read_info(adapters)
    refuse_other_inputs(info, config, adapters)
    refuse_other_data(run, Manifest.read(config.data.folder), config.data.folder)
    read_operating_point(run, adapters)  # one that does not fit is refused before the model is loaded
    if golden < 1:
        raise UserError(f"--golden {golden} proves nothing: ask for at least 1 prompt")
    refuse_target(run, out, overwrite)
    with atomic_dir(out) as folder, new_console().status("exporting") as status:
        written = _write(run, config, adapters, info, folder, out, golden, formats, status.update)
        gc.collect()  # the trained model, before the check loads its own
        status.update("checking with plain transformers + peft")
        differences = check.run(folder) if check else run_check(folder)
    log.info(rendered(_summary(written, differences, out)))
    record = json.loads((out / FILE_NAME).read_text("utf-8"))
    _log_notes(config, record, out)


def _log_notes(config: RunConfig, record: dict[str, Any], out: Path) -> None:
    """What is not in the summary: the ω that it ships, how the graphs compare, and who cannot serve the adapters."""
    point = record["operating_point"]
    omega = ", ".join(f"{name} {value:g}" for name, value in point["omega"].items() if value)
    chosen = omega or "nothing, pure relevance (choose with `equipoise front`)"
    log.info(f"operating point, ω: {chosen}" if point["omega"] else "no list-wise objective: candidates rank by u = r")
    if "onnx" in record["formats"]:
        report = json.loads((out / onnx.FOLDER / onnx.REPORT).read_text("utf-8"))
        log.info(rendered(report_table(report)))
    if config.lora.scope == "candidates":
        log.info(SCOPED)
    flattens = record["formats"].get("alora") is None and record["mask"] != "prefix"
    why = why_not_activated(
        config.lora.scope,
        record["mask"] == "prefix",
        config.backbone.quantize is not None,
        flattens,
        record["trunk"],
    )
    if why:
        log.info(f"note: no activated-LoRA form is written: {why}")


def refuse_target(run: Path, out: Path, overwrite: bool) -> None:
    """Refuse a folder that an export of `run` may not be written to.

    Raises:
        UserError: it holds the run or lies in it, holds something else or an export that is not to be replaced, or
            cannot be written.
    """
    if run.resolve().is_relative_to(out.resolve()):
        raise UserError(f"{out} holds the run itself: name another folder to export to")
    if out.resolve().is_relative_to(run.resolve()):
        raise UserError(f"{out} lies in the run: name another folder to export to")
    refuse_unwritable(out, out.parent, "export")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / FILE_NAME).is_file():
        raise UserError(f"{out} exists and is not an export: name another folder")
    if not overwrite:
        raise UserError(f"{out} holds an earlier export: name another folder or add --overwrite")


def _write(
    run: Path,
    config: RunConfig,
    adapters: Path,
    info: AdapterInfo,
    folder: Path,
    out: Path,
    golden: int,
    formats: Formats,
    on_progress: Callable[[str], None],
) -> list[ExportedAdapter]:
    """Everything of an export but its check."""
    slates = SlateSet(config.data.folder, "test")
    if config.backbone.in_export:
        save_base(config, folder / BASE_FOLDER)
    full_precision = {
        "backbone": golden_backbone(config.backbone, folder),
        "train": config.train.model_copy(update={"precision": "fp32"}),
    }
    served_config = config.model_copy(update=full_precision)
    model = load_run_model(served_config, adapters, checked=True)
    tokenizer = load_tokenizer(config.backbone)
    tokenizer.save_pretrained(str(folder / TOKENIZER_FOLDER))
    calibrations = read_calibrations(run, adapters)
    vectors = find_vectors(config).vectors if model.compares else None
    beside_record = write_beside_text(folder, run, config, model, vectors)
    own = {"features": slates.manifest.features, **beside_record}
    beside = open_beside_text(folder, own, golden_backbone(config.backbone, folder))
    known = beside.things if beside is not None else None
    prompts = read_prompts(slates, tokenizer, config, model.backbone.encoder, golden, known)
    write_golden(folder, model, prompts.singles, prompts.slate, slates.manifest.features, beside, calibrations)
    written, served = _write_adapters(config, model, folder, out)
    pad_id = choose_pad_id(model.backbone.config, tokenizer, prompts.layout.candidate_end_ids)
    record = serving_record(config, info, model, served, prompts.layout, pad_id, folder, out)
    for name, each in calibrations.items():
        record["objectives"][name]["calibration"] = each.to_json()
    for name, lines in read_calibration_lines(run, adapters).items():
        record["objectives"][name]["calibration_lines"] = lines
    lists = run_rule(config, run)
    if lists is not None:
        write_golden_lists(folder, model, lists, prompts.slate, slates.items)
    record |= beside_record | write_catalogue(folder, slates, config, lists)
    record |= {"lists": lists.to_json()} if lists else {}
    record |= export_recall(folder, run, adapters, config, model, _base_of(config, out), tokenizer, slates, on_progress)
    added = adds_to_utility(record.get("lists"))
    if not added:
        record["operating_point"]["utility"] = "u = r"
    record["operating_point"] |= read_operating_point(run, adapters, added)
    formats.check_disk_space(model, folder)
    record["vllm"] = judge_for_vllm(config, model, served, folder)
    record["sglang"] = judge_for_sglang(config, model, served)
    layout, hidden = prompts.layout, model.backbone.config.hidden_size
    invocation = layout.prefix_end_ids or layout.candidate_end_ids
    base = _base_of(config, out)
    record["formats"] = write_from_model(formats, config, model, served, folder, base, invocation)
    del model  # merged checkpoints load the base once more
    gc.collect()
    record["formats"] |= write_from_adapters(formats, folder, record)
    record["adapter_shape"] = config.lora.model_dump(include={"rank", "alpha", "dropout", "rslora"})
    record["adapter_shape"] |= {"ranks": config.lora.ranks} if config.lora.ranks else {}
    write_request_schema(folder, record)
    report = _copy_report(run, folder)
    counts = _data_sentence(config, slates.manifest)
    card = render_card(config, record, counts, slates.manifest.source, hidden, report, prompts.slate)
    (folder / "README.md").write_text(card, "utf-8")
    write_check(folder, formats=bool(record["formats"]))
    if (folder / RATES_FOLDER).is_dir():
        seal(folder / RATES_FOLDER)
    make_readable(folder)
    write_serving_record(folder, {**record, "files": files_of(folder, BASE_FOLDER)})
    return written


def _base_of(config: RunConfig, out: Path) -> tuple[str, str | None]:
    """Path and revision of the base for adapter_config.json; one in the export by its final path."""
    base = base_path(config.backbone)
    if config.backbone.in_export:
        return str(out.resolve() / base), None
    return base, config.backbone.revision


def _write_adapters(
    config: RunConfig, model: SlateModel, folder: Path, out: Path
) -> tuple[list[ExportedAdapter], dict[str, ServedClass]]:
    """Write every objective's folder; decoders with a stock `score` head serve pointwise objectives as classifiers."""
    base_config, targets = model.backbone.config, config.lora.targets
    features = serve_as(base_config, "features", targets)
    assert features is not None, "every backbone has a class without head"
    # A stock classifier reads its text alone.
    stock = not (model.backbone.encoder or model.features or model.priors or model.compares)
    classifier = serve_as(base_config, "sequence_classification", targets) if stock else None
    served = {name: (name in model.pointwise and classifier) or features for name in model.objectives}
    base, revision = _base_of(config, out)
    written = [
        write_adapter(folder / name, model, name, served[name], config.lora, base, revision)
        for name in model.objectives
    ]
    return written, served


def _copy_report(run: Path, folder: Path) -> dict[str, Any] | None:
    if not (run / REPORT).is_file():
        return None
    shutil.copyfile(run / REPORT, folder / REPORT)
    return json.loads((run / REPORT).read_text("utf-8"))


def _data_sentence(config: RunConfig, manifest: Manifest) -> str:
    train = manifest.splits["train"]
    clicks = f"{train.clicks:,} clicks"
    if "conversion" not in manifest.absent_labels:
        clicks += f", {train.conversions:,} conversions, {train.clicked_conversions:,} of them after a click"
    return (
        f"Source `{manifest.source}`, prepared in `{config.data.folder}`. Trained on {train.impressions:,} impressions "
        f"in {train.requests:,} requests from {train.first[:10]} to {train.last[:10]}: {clicks}."
    )


def _summary(written: list[ExportedAdapter], differences: dict[str, float], out: Path) -> Table:
    numbers = ["tensors", "parameters", "size", "max golden diff"]
    table = new_table(f"exported {out}", ["objective", "task type"], numbers)
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

"""`equipoise score RUN REQUESTS OUT`: score requests of any number, streaming, in one process or many.

Many: `equipoise launch score RUN REQUESTS OUT`. Each process scores blocks of its own and speaks
with the others at the beginning and the end only. docs/scoring.md describes files and columns.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from equipoise.common.errors import UserError
from equipoise.common.hashing import file_hash
from equipoise.configs.load import read_run_config
from equipoise.configs.schema import RunConfig
from equipoise.data.features import Scales, read_scales
from equipoise.data.rates import FOLDER as RATES_FOLDER
from equipoise.data.rates import RateLookup
from equipoise.data.remote_copy import bring
from equipoise.data.requests.catalogue import Catalogue, given_catalogue, prepared_catalogue
from equipoise.data.requests.files import Block, RequestFile, cut_blocks, find_request_files
from equipoise.data.requests.forms import PreparedForm, RequestForm, form_of
from equipoise.data.thing_columns import Rivals
from equipoise.data.tokens import SlateTokenizer
from equipoise.modeling.adapter_store import TENSORS, AdapterInfo, read_info
from equipoise.modeling.base_config import is_encoder, load_model_config, load_tokenizer
from equipoise.modeling.beside_text import BesideText, Things
from equipoise.modeling.frozen_text import FrozenText
from equipoise.modeling.precision import settle_precision
from equipoise.modeling.priors import Priors
from equipoise.modeling.run_model import load_run_model
from equipoise.scoring.columns import ScoreColumns, parse_omega
from equipoise.scoring.folder import ScoreFolder
from equipoise.scoring.options import ScoreOptions
from equipoise.scoring.portions import Portion, read_portions
from equipoise.scoring.progress import ScoreProgress
from equipoise.serving.request_scorer import RequestScorer, RequestTokenizer
from equipoise.train.accelerate_setup import make_accelerator
from equipoise.train.best_adapters import run_adapters, warn_unfinished, which_adapters
from equipoise.train.calibration import read_calibrations
from equipoise.train.list_fit import run_rule
from equipoise.train.out_of_memory import memory_advice
from equipoise.train.priors import FOLDER as PRIORS
from equipoise.train.thing_vectors import find_vectors
from equipoise.train.world import World

log = logging.getLogger(__name__)
WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class Inputs:
    """What is read: blocks of files, the form of each file, and the items."""

    files: list[RequestFile]
    blocks: list[Block]
    forms: dict[Path, RequestForm]
    catalogue: Catalogue

    @property
    def ids(self) -> list[str]:
        """Those of user_id and part that are given, the same in all files."""
        return _ids(next(iter(self.forms.values())))


def score_run(folder: Path, requests: Path, out: Path, options: ScoreOptions, overrides: Sequence[str] = ()) -> None:
    """Score all requests, or go on where an earlier call stopped.

    Raises:
        UserError: the run is unfinished, the requests cannot be read, or `out` holds something else.
    """
    config = settle_precision(read_run_config(folder, overrides))
    bring(config.data)
    adapters = run_adapters(folder, config)
    warn_unfinished(folder)
    info = read_info(adapters)
    omega = parse_omega(options.omega, info.listwise)
    scales = read_scales(info.features)
    lists = run_rule(config, folder)
    inputs = _open(config, requests, options, scales, lists.attributes(omega) if lists and omega else [])
    names = (inputs.ids, list(info.pointwise), info.listwise)
    columns = ScoreColumns(*names, omega, inputs.catalogue, info.relevance, info.links, lists)
    accelerator = make_accelerator(config)
    world = World()
    target = ScoreFolder(out, _record(folder, config, inputs, options, columns))
    if accelerator.is_main_process:
        target.begin(options.overwrite)
    finished: set[int] = world.gather(target.finished() if accelerator.is_main_process else None)[0]
    pending = [block for block in inputs.blocks if block.number not in finished]
    if not pending:
        log.info(f"all {sum(file.rows for file in inputs.files):,} requests are scored already: {out}")
        return
    log.info(which_adapters(adapters))
    model = load_run_model(config, adapters).to(accelerator.device)
    max_tokens = options.max_tokens or config.evaluate.max_tokens
    encoder = is_encoder(load_model_config(config.backbone))
    slates = SlateTokenizer(load_tokenizer(config.backbone), config.tokens, encoder, inputs.catalogue.texts)
    tokenizer = RequestTokenizer(slates, scales, open_run_beside(config, folder, info))
    sizes = (config.tokens.max_row, max_tokens)
    calibrations = read_calibrations(folder, adapters)
    precision = config.train.precision
    scorer = RequestScorer(
        model, slates.pad_id, *sizes, chunk_tokens=max_tokens, calibrations=calibrations, precision=precision
    )
    showing = ScoreProgress(inputs.blocks, target, finished, accelerator.is_main_process)
    with memory_advice(config, "scoring"), showing as progress:
        portions = read_portions(pending[world.rank :: world.size], inputs.forms, tokenizer)
        write_scores(scorer, portions, columns, target, progress)
        # Waiting here instead of in the barrier, which gives up when another process needs much longer.
        while not progress.complete():
            time.sleep(WAIT_SECONDS)
    world.barrier()
    log.info(progress.closing_line())


def open_run_beside(config: RunConfig, run: Path, info: AdapterInfo) -> BesideText | None:
    """What the heads of a run read of requests beside their prompts; None where they read nothing.

    Raises:
        UserError: the run's priors, or the things of its prepared folder, are missing or broken.
    """
    if not info.priors and not info.comparison:
        return None
    things, compared = None, config.data.comparison
    if compared is not None and info.comparison:
        frozen = FrozenText(config.backbone, config.seed)
        vectors = find_vectors(config).vectors
        rivals = Rivals.of(compared.rivals.model_dump(), vectors) if compared.rivals is not None else None
        things = Things.read(config.data.folder, compared.max_events, frozen, vectors, rivals)
    return BesideText(list(info.features), Priors.read(run / PRIORS) if info.priors else None, things)


def write_scores(
    scorer: RequestScorer,
    portions: Iterator[Portion],
    columns: ScoreColumns,
    target: ScoreFolder,
    progress: ScoreProgress,
) -> None:
    """Score portions while a thread makes the next ones, and write the part of each block.

    Raises:
        UserError: a request cannot be read or a score is not finite; then nothing of its block is written.
    """
    with closing(scorer.stream(portions, lambda portion: portion.slates)) as scored:
        for portion, scores in scored:
            with target.writing(portion.block.number, columns.schema) as part:
                while True:
                    table = columns.table(portion.requests, scores)
                    part.add(table)
                    progress.advance(len(portion.requests), table.num_rows)
                    if portion.last:
                        break
                    portion, scores = next(scored)
            progress.end_block()


def _open(
    config: RunConfig, requests: Path, options: ScoreOptions, scales: Scales, attributes: Sequence[str] = ()
) -> Inputs:
    for name, value in (("--block", options.block), ("--max-tokens", options.max_tokens)):
        if value is not None and value < 1:
            raise UserError(f"{name} {value} leaves room for nothing: give at least 1")
    files = find_request_files(requests)
    rates = RateLookup.read(config.data.folder / RATES_FOLDER / rate.file for rate in config.data.rates)
    compared = [config.data.comparison.item] if config.data.comparison is not None else []
    read = list(dict.fromkeys([*scales, *rates.keys, *compared, *attributes]))
    if options.items is not None:
        catalogue = given_catalogue(options.items, config.data.prompt, read, config.data.history_sections)
    else:
        catalogue = prepared_catalogue(config.data.folder, read)
    for name in attributes:
        if name not in catalogue.rows.column_names:
            raise UserError(f"{catalogue.path} has no column {name}, by which --omega makes lists: add it")
    forms = {file.path: form_of(file, catalogue, config.data, scales, rates) for file in files}
    first = next(iter(forms.values()))
    for form in forms.values():
        if type(form) is not type(first) or _ids(form) != _ids(first):
            raise UserError(
                f"{form.path} and {first.path} have different columns of ids or different forms: score them one by one"
            )
        if isinstance(form, PreparedForm) and options.items is None:
            _refuse_other_items(form.path, catalogue)
    return Inputs(files, cut_blocks(files, options.block), forms, catalogue)


def _ids(form: RequestForm) -> list[str]:
    return [name for name in ("user_id", "part") if name in form.columns]


def _refuse_other_items(path: Path, catalogue: Catalogue) -> None:
    """Slates of another prepared folder name other items by the same numbers."""
    own_items = path.resolve().parent.parent / "items.parquet"
    if own_items.is_file() and not own_items.samefile(catalogue.path):
        raise UserError(
            f"{path} was prepared with {own_items}, but the run's items are {catalogue.path}: add --items {own_items}"
        )


def _record(
    folder: Path, config: RunConfig, inputs: Inputs, options: ScoreOptions, columns: ScoreColumns
) -> dict[str, Any]:
    """What determines the scores. The token budget does not: one that was too large may be lowered to go on."""
    included: dict[str, Any] = {"tokens": ..., "backbone": ..., "lora": ..., "data": {"prompt": ..., "history": ...}}
    if config.data.comparison is not None:
        included["data"]["comparison"] = ...
    items = options.items or inputs.catalogue.path
    adapters = run_adapters(folder, config)
    calibrations = {name: each.to_json() for name, each in read_calibrations(folder, adapters).items()}
    return {
        "schema_version": 1,
        "run": str(folder.resolve()),
        "adapters": file_hash(adapters / TENSORS),
        **({"calibration": calibrations} if calibrations else {}),
        "requests": [
            {"file": str(file.path.resolve()), "bytes": file.size, "rows": file.rows, "tail_sha256": file.tail}
            for file in inputs.files
        ],
        "items": {"file": str(items.resolve()), "bytes": items.stat().st_size, "items": len(inputs.catalogue)},
        "block": options.block,
        "omega": columns.omega,
        "columns": columns.schema.names,
        "settings": config.model_dump(mode="json", include=cast(Any, included)),
    }

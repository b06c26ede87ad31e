"""What the valid split settles once the last step is done: calibration, lists, and whether recall keeps its vectors.

All is judged by the adapters that `evaluate.adapters` names, which a later command reads: they take the place of the
last ones in the model for as long as that takes.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from equipoise.common.calibration import Calibration, with_calibration
from equipoise.common.console import new_console
from equipoise.common.progress import ProgressBar
from equipoise.configs.schema import RunConfig
from equipoise.data.slate_set import SlateSet
from equipoise.modeling.adapter_store import TENSORS, adapters_hash, copy_into
from equipoise.modeling.model import SlateModel
from equipoise.modeling.recall_sources import RecallSources
from equipoise.train.accelerate_setup import engine_name, shards_base, zero_stage
from equipoise.train.assemble import DataParts
from equipoise.train.best_adapters import run_adapters
from equipoise.train.calibration import calibrate, calibration_rows, write_calibrations
from equipoise.train.list_fit import fit_lists, list_rule, write_lists
from equipoise.train.list_fit import sentences as list_sentences
from equipoise.train.out_of_memory import memory_advice
from equipoise.train.parameters import gather, trainable
from equipoise.train.recall_scores import CHOICE_CUTOFF, choose_vectors, write_choice
from equipoise.train.validation import score_rows, spread_rows, users_of
from equipoise.train.world import World

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ValidFits:
    """Fits for one run, whose adapters are written; all processes call each method, the first one writes.

    Attributes:
        config: of the run.
        model: as the engine wraps it.
        slate_model: the same without the engine.
        accelerator, world: of the job.
    """

    config: RunConfig
    model: torch.nn.Module
    slate_model: SlateModel
    accelerator: Accelerator
    world: World

    @cached_property
    def _adapters(self) -> Path:
        return run_adapters(self.config.output, self.config)

    @contextmanager
    def _chosen(self) -> Iterator[None]:
        """The model has the chosen adapters; under ZeRO-3, where no process holds whole weights, the last ones."""
        if zero_stage(self.accelerator) == 3:
            yield
            return
        last = gather(trainable(self.slate_model))
        copy_into(self.slate_model, load_file(self._adapters / TENSORS), str(self._adapters))
        try:
            yield
        finally:
            copy_into(self.slate_model, last, "the last weights")

    def fit_scores(self, valid: DataParts | None) -> None:
        """Calibrate (`train.calibration`) and fit lists, where the configuration asks for it, and say what it gave.

        Args:
            valid: the split; None where there is none.
        """
        self.world.barrier()
        config, run = self.config, self.config.output
        if valid is None:
            log.info("there is no valid split: prices of groups are 0, and what list-wise objectives learned is kept")
            if self.accelerator.is_main_process:
                write_lists(run, {"prices": {}, "learned": {}})
            return
        rows = spread_rows(len(valid.slates), config.evaluate.max_requests)
        bar = ProgressBar("judging on valid", len(rows), "slates", console=new_console(quiet=self.world.rank > 0))
        with self._chosen(), memory_advice(config, "scoring"), bar:
            scores = score_rows(
                config, self.model, valid.slates, rows, self.accelerator.device, self.world, bar.advance
            )
        if not self.accelerator.is_main_process:
            return
        found = self._calibrations(valid, rows, scores)
        if list_rule(config) is not None:
            corrections = {n: Calibration.of(each["calibration"]) for n, each in found.items() if each["kept"]}
            corrected = with_calibration(scores, corrections)
            logits = {name: torch.from_numpy(corrected[name]) for name in self.slate_model.pointwise}
            lists = fit_lists(config, valid.slates, corrected, self.slate_model.relevance(logits).numpy())
            write_lists(run, lists)
            log.info("\n".join(list_sentences(lists)))
        if config.train.calibration != "none":
            write_calibrations(run, found, adapters_hash(self._adapters))
            for name, about in found.items():
                log.info(f"calibration of {name} ({config.train.calibration}) {about['why']}")

    def _calibrations(
        self, valid: DataParts, rows: list[int], scores: Mapping[str, np.ndarray]
    ) -> dict[str, dict[str, Any]]:
        config = self.config
        if config.train.calibration == "none":
            return {}
        users = users_of(valid.slates, rows, scores)
        labelled = calibration_rows(scores, users, valid.objectives, config.objectives.specs())
        return {name: calibrate(each, config.train.calibration, config.seed) for name, each in labelled.items()}

    def choose_vectors(self, train: DataParts, sources: RecallSources) -> None:
        """Keep the vectors of recall only where they find more on valid than what recall began as, and say so."""
        self.world.barrier()
        if shards_base(self.accelerator):
            log.info(
                f"recall: under {engine_name(self.accelerator)} no process holds whole weights, so its vectors are "
                "kept without a comparison"
            )
            return
        if not self.accelerator.is_main_process:
            return
        config, name = self.config, self.slate_model.retrieval[0]
        valid = SlateSet(config.data.folder, "valid", train.tokens)
        with self._chosen(), ProgressBar(unit="", console=new_console(), transient=True) as bar:

            def tell(stage: str, done: int, total: int) -> None:
                bar.add(stage, total)
                bar.advance(done, stage)

            self.slate_model.eval()
            found = choose_vectors(self.slate_model, name, train.slates, valid, config.tokens.max_row, sources, tell)
        write_choice(config.output, found, adapters_hash(self._adapters))
        kept = "its vectors are kept" if found["kept"] else "its vectors, which do not surely find more, are left out"
        log.info(
            f"{name}: recall@{CHOICE_CUTOFF} on {found['shoppers']} valid requests {found['without']:.4f} by its "
            f"sources, {found['with']:.4f} with its vectors: {kept}"
        )

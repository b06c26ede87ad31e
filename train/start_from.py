"""A training that begins where an earlier run ended (`train.start_from`): what fits, what is taken over, what is said.

Adapters and heads are those that `evaluate.adapters` names of the earlier run; the optimizer's moments come from its
last checkpoint, where there is one and the shapes agree. The learning rate is warmed anew.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from equipoise.common.errors import UserError
from equipoise.configs.load import read_run_config
from equipoise.configs.schema import RunConfig
from equipoise.modeling.adapter_store import TENSORS, AdapterInfo, adapters_hash, copy_into, read_info
from equipoise.modeling.base_identity import Identity, compare, refuse_other_inputs
from equipoise.modeling.heads import as_named_now
from equipoise.modeling.model import SlateModel
from equipoise.train.best_adapters import run_adapters
from equipoise.train.checkpoint_files import checkpoints, last_whole
from equipoise.train.start_record import StartRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EarlierRun:
    """The run that a training begins from.

    Attributes:
        run: its folder.
        adapters: the folder of its adapters that count.
        info: what these belong to.
    """

    run: Path
    adapters: Path
    info: AdapterInfo

    @classmethod
    def of(cls, config: RunConfig) -> "EarlierRun | None":
        """The run that `train.start_from` names; None where it names none.

        Raises:
            UserError: it is unfinished, or of another base, tokenizer, shape of adapters or set of objectives.
        """
        run = config.train.start_from
        if run is None:
            return None
        if run.resolve() == config.output.resolve():
            raise UserError(f"train.start_from is the output itself, {run}: set another output, or drop it")
        if not (run / "config.yaml").is_file():
            raise UserError(f"train.start_from: {run} holds no run: name the folder of a finished one")
        adapters = run_adapters(run, read_run_config(run))
        info = read_info(adapters)
        trained, now = {*info.pointwise, *info.listwise, *info.retrieval}, set(config.objectives.active())
        if trained != now:
            name = sorted(trained ^ now)[0]
            has, lacks = ("that run", "this one") if name in trained else ("this run", "that one")
            raise UserError(
                f"train.start_from: {run} was trained for other objectives ({has} has '{name}', {lacks} lacks it): set "
                "the same ones, or begin without train.start_from"
            )
        _refuse_other_base(info, config, adapters)
        return cls(run, adapters, info)

    def begin(self, model: SlateModel, info: AdapterInfo) -> None:
        """Give a new model the earlier run's adapters and heads, after a look at what they read; raises as these two.

        Args:
            model: newly built.
            info: what its adapters belong to.
        """
        self.refuse_other_shapes(info)
        self.copy_into(model)

    def go_on(
        self, optimizer: Any, sharded_engine: bool, prior: str, prior_origin: Mapping[str, str] | None
    ) -> StartRecord:
        """Give the optimizer its moments, and say what the training begins with.

        Args:
            optimizer, sharded_engine: as for `moments_into`.
            prior: `train.start_prior`.
            prior_origin: where kept priors were fitted; None of others.
        """
        moments = self.moments_into(optimizer, sharded_engine)
        told = ("kept" if prior == "keep" else "refitted") if self.info.priors else "none"
        log.info(
            f"begins from {self.run} with its adapters and heads ({self.adapters.name}/); {moments}; priors: {told}"
        )
        return StartRecord(str(self.run.resolve()), adapters_hash(self.adapters), told, moments, prior_origin)

    def refuse_other_shapes(self, info: AdapterInfo) -> None:
        """Refuse features, labels or links that are read otherwise than the earlier run read them.

        Args:
            info: of the model that is to begin.

        Raises:
            UserError: names what differs, and the way out.
        """
        way = "prepare with data.scales_from set to the folder that it was trained on, or begin without it"
        if info.split != self.info.split:
            raise UserError(
                f"train.start_from: {self.run} was trained with backbone.split: {self.info.split}, this run has "
                f"{info.split}: set backbone.split to {self.info.split}"
            )
        if list(info.features) != list(self.info.features):
            raise UserError(
                f"train.start_from: {self.run} reads the features {', '.join(self.info.features) or 'none'}, this run "
                f"{', '.join(info.features) or 'none'}: set data.features as there, or begin without it"
            )
        differing = next((n for n in info.features if not _same(info.features[n], self.info.features[n])), None)
        if differing is not None:
            raise UserError(
                f"train.start_from: {self.run} standardises the feature '{differing}' otherwise than these data: {way}"
            )
        if info.links != self.info.links:
            raise UserError(f"train.start_from: {self.run} scales its values otherwise than these data: {way}")
        if info.priors != self.info.priors or info.comparison != self.info.comparison:
            raise UserError(
                f"train.start_from: {self.run} has other priors or another data.comparison than this run: set them "
                "back, or begin without it"
            )
        if (info.prompt, info.history) != (self.info.prompt, self.info.history):
            log.warning(f"{self.run} was trained on texts of other templates (data.prompt, data.history) than these")

    def copy_into(self, model: SlateModel) -> None:
        """Give the model the earlier run's adapters and heads.

        Raises:
            UserError: names or shapes differ.
        """
        tensors = as_named_now(load_file(self.adapters / TENSORS), self.info.retrieval)
        copy_into(model, tensors, f"train.start_from: {self.adapters / TENSORS}")

    def moments_into(self, optimizer: Any, sharded_engine: bool) -> str:
        """Give AdamW the moments of the earlier run's last checkpoint; a sentence on what was done.

        Args:
            optimizer: as Accelerate prepared it.
            sharded_engine: whether an engine (DeepSpeed) keeps its state in pieces of its own.
        """
        if sharded_engine:
            return "the optimizer begins anew (DeepSpeed keeps its state in pieces of its own)"
        if not checkpoints(self.run):
            return f"the optimizer begins anew ({self.run} kept no checkpoint: train.save_every)"
        path = last_whole(self.run) / "optimizer.pt"
        if not path.is_file():
            return f"the optimizer begins anew ({path.parent} is of another engine)"
        kept, own = torch.load(path, weights_only=True), optimizer.state_dict()
        sizes = [[len(group["params"]) for group in state["param_groups"]] for state in (kept, own)]
        if sizes[0] != sizes[1]:
            return f"the optimizer begins anew ({path.parent} groups its parameters otherwise)"
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        fitting = {n: state for n, state in kept["state"].items() if _fits(state, parameters[n])}
        optimizer.load_state_dict({"state": fitting, "param_groups": own["param_groups"]})
        if len(fitting) < len(parameters):
            return f"of {len(parameters)} tensors {len(fitting)} go on with the optimizer's moments of {path.parent}"
        return f"the optimizer goes on with the moments of {path.parent}"


def _refuse_other_base(info: AdapterInfo, config: RunConfig, adapters: Path) -> None:
    if info.base_weights is None or info.tokenizer is None or info.settings is None:
        refuse_other_inputs(info, config, adapters)
        return
    trained = Identity(info.base_weights, info.tokenizer, info.settings)
    compare(trained, Identity.of(config), config.backbone, f"train.start_from: {adapters}")


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two scales are the same, those of before that lack a key included."""
    return all(one.get(key, value) == value for key, value in other.items())


def _fits(state: Mapping[str, Any], parameter: torch.Tensor) -> bool:
    moments = [value for value in state.values() if torch.is_tensor(value) and value.dim()]
    return all(moment.shape == parameter.shape for moment in moments)

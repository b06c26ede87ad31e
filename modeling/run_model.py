"""The model of a finished run: built from the run's config, filled from its adapters folder."""

from pathlib import Path

import torch

from equipoise.common.errors import UserError
from equipoise.configs.schema import RunConfig
from equipoise.data.features import columns_of, read_scales
from equipoise.modeling.adapter_store import load_adapters, read_info
from equipoise.modeling.base_config import config_hash, load_model_config
from equipoise.modeling.base_identity import refuse_other_inputs
from equipoise.modeling.comparison import ComparisonShape
from equipoise.modeling.model import ModelSpec, SlateModel, build_model
from equipoise.modeling.quantized import compute_in
from equipoise.modeling.relevance import Relevance


def compute_as_trained(model: SlateModel, config: RunConfig) -> None:
    """Let a quantized base compute in the run's precision: bfloat16 where `train.precision` is bf16, else float32."""
    if config.backbone.quantize:
        compute_in(model, torch.bfloat16 if config.train.precision == "bf16" else torch.float32)


def load_run_model(config: RunConfig, adapters_folder: Path, checked: bool = False) -> SlateModel:
    """The trained model of a run, on the CPU, in evaluation form.

    Args:
        config: the run's resolved configuration.
        adapters_folder: `RUN/adapters`, or a folder of the same form.
        checked: the base has been compared with that of the training already, and was then saved in another form.

    Raises:
        UserError: the adapters are missing or broken, or belong to another base model (its weights are compared),
            tokenizer, split, set of objectives or settings.
    """
    info = read_info(adapters_folder)  # before the base model is loaded, which takes minutes for a large one
    trained, configured = {*info.pointwise, *info.listwise, *info.retrieval}, set(config.objectives.active())
    if trained != configured:
        name = sorted(trained ^ configured)[0]
        raise UserError(
            f"{adapters_folder} and the config differ in objective '{name}': use the config.yaml of the same run"
        )
    if not checked:
        refuse_other_inputs(info, config, adapters_folder)
    spec = ModelSpec(
        config.backbone,
        config.lora,
        info.pointwise,
        info.listwise,
        info.offsets,
        config.seed,
        features=columns_of(read_scales(info.features)),
        retrieval=info.retrieval,
        relevance=Relevance.read(info.relevance, info.links, info.pointwise),
        priors=info.priors,
        comparison=ComparisonShape(**info.comparison) if info.comparison else None,
    )
    model = build_model(spec)
    if model.backbone.split != info.split:
        raise UserError(
            f"{adapters_folder} was trained with backbone.split: {info.split}, the config gives "
            f"{model.backbone.split}: set backbone.split to {info.split}"
        )
    load_adapters(model, adapters_folder, config_hash(load_model_config(config.backbone)))
    compute_as_trained(model, config)
    return model.eval()

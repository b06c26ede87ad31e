"""A run folder as `equipoise train` leaves it, with random adapters and heads: to score with, without training."""

import torch

from equipoise.configs.load import save_config
from equipoise.configs.schema import RunConfig
from equipoise.data.features import columns_of, read_scales
from equipoise.modeling.adapter_store import AdapterInfo, TextTemplates, save_adapters
from equipoise.modeling.model import ModelSpec, build_model
from equipoise.train.list_fit import write_lists
from equipoise.train.parameters import trainable

OFFSETS = {"ctr": -1.0, "cvr": -0.5}
SCALE = {"mean": 1.0, "std": 0.5, "least": 1.0, "most": 9.0}
CATEGORY = {"scale": "category", "values": ["few", "many"], "shares": [0.6, 0.4]}


def write_random_run(config: RunConfig, scale: float = 0.2, seed: int = 1, features: dict | None = None) -> None:
    """Write config.yaml and adapters/ to `config.output`.

    Args:
        config: of the run; its data need not be prepared.
        scale: standard deviation of what is added to LoRA B and the heads, so that every mistake shows in the scores.
        seed: of the random numbers.
        features: their scales, as in manifest.json; made up where the data are not prepared.
    """
    pointwise = dict.fromkeys(config.objectives.of_kind("pointwise"), 1)
    listwise = config.objectives.of_kind("listwise")
    offsets = {name: OFFSETS[name] for name in pointwise}
    scales: dict = features or {
        feature.name: {
            **CATEGORY,
            "heads": feature.heads,
            "slopes": feature.interactions,
            "levels": feature.levels,
            "hashed": feature.hashed,
            "rate": feature.rate,
        }
        if feature.scale == "category"
        else {**SCALE, "heads": feature.heads, "scale": feature.scale}
        for feature in config.data.features
    }
    columns = columns_of(read_scales(scales))
    spec = ModelSpec(config.backbone, config.lora, pointwise, listwise, offsets, config.seed, features=columns)
    model = build_model(spec)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name or name.startswith("heads."):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    data = config.data
    texts = TextTemplates(data.prompt.model_dump(mode="json"), data.model_dump(mode="json")["history"])
    info = AdapterInfo.of(spec, model, texts, scales)
    save_adapters(config.output / "adapters", trainable(model), info)
    write_lists(config.output, {"prices": {}, "learned": {}})
    save_config(config, config.output / "config.yaml")

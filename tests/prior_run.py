"""A tiny run that begins as priors and compares with the history, its adapters and heads large random numbers."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from transformers import AutoConfig, AutoModel

from equipoise.configs.load import save_config
from equipoise.configs.schema import RunConfig
from equipoise.data.features import CategoryScale, columns_of
from equipoise.data.manifest import Manifest
from equipoise.data.prepare.slates import prepare
from equipoise.data.slate_set import SlateSet
from equipoise.modeling.adapter_store import AdapterInfo, TextTemplates, save_adapters
from equipoise.modeling.comparison import ComparisonShape
from equipoise.modeling.model import ModelSpec, SlateModel, build_model
from equipoise.modeling.priors import Priors, PriorSpec
from equipoise.modeling.simple_models import fit_blend, fit_linear, fit_trees, to_text
from equipoise.train.list_fit import write_lists
from equipoise.train.thing_vectors import find_vectors, thing_columns
from equipoise.train.token_caches import find_tokens
from tests.export_run import ARCHITECTURES
from tests.tiny_run import run_settings

FEATURES = [{"name": "seen_before", "scale": "log1p"}, {"name": "category", "scale": "category", "heads": False}]
SIMILAR = ["similar_mean", "similar_best3", "similar_max"]
TOGETHER = ["together_mean", "together_best5", "together_max"]
COLUMNS = {"ctr": ["seen_before", "category", *SIMILAR, *TOGETHER], "cvr": ["category", "seen_before", *SIMILAR]}


def prior_config(folder: Path, arch: str, method: str = "trees", **settings: Any) -> RunConfig:
    """The config of the tiny run, prepared, on a base of random weights; `method` is of ctr's prior, cvr has linear."""
    given = run_settings(folder)
    torch.manual_seed(3)
    AutoModel.from_config(AutoConfig.for_model(arch, **ARCHITECTURES[arch])).save_pretrained(folder / "weights")
    given["backbone"] |= {"path": str(folder / "weights"), "init": "pretrained", "split": 1}
    given["data"] |= {"features": FEATURES, "comparison": {"item": "category", "width": 8}}
    given["tokens"] |= {"max_prefix": 40, "max_candidate": 16, "max_row": 128}
    priors = {"ctr": {"method": method}, "cvr": {"method": "linear", "space": "given"}}
    given["objectives"] = {name: {"prior": priors[name]} for name in priors} | {"diversity": {}}
    impressions = pd.read_csv(given["data"]["tables"]["impressions"], dtype=str)
    impressions.loc[impressions.request_id.str[1:].astype(int) % 3 == 0, "seen_before"] = (
        None  # of some, all is unknown
    )
    impressions.to_csv(given["data"]["tables"]["impressions"], index=False)
    config = RunConfig.model_validate(given | settings)
    prepare(config.data)
    return config


def split_columns(config: RunConfig, split: str) -> dict[str, np.ndarray]:
    """All columns that priors read of a split."""
    tokens = find_tokens(config)
    own = tokens.split(split)
    return own.features | own.computed | thing_columns(tokens, find_vectors(config), split)


def fit_priors(config: RunConfig, folder: Path) -> Priors:
    """Fit and write priors; every prior reads its COLUMNS, that of cvr falls back where seen_before is unknown."""
    tokens, scales = find_tokens(config).split("train"), Manifest.read(config.data.folder).features
    known, specs = split_columns(config, "train"), {}
    folder.mkdir(parents=True)
    for name, fit in (("ctr", fit_trees), ("cvr", fit_linear)):
        names = COLUMNS[name]
        categories = [column for column in names if isinstance(scales.get(column), CategoryScale)]
        rows = np.stack([known[column] for column in names], 1)
        label = np.asarray(tokens.click if name == "ctr" else tokens.conversion, np.float64)
        inside = np.ones(len(label), bool) if name == "ctr" else np.asarray(tokens.click, bool)
        model = fit(rows[inside], label[inside], categories=[names.index(column) for column in categories])
        prior = getattr(config.objectives, name).prior
        if prior.method == "blend":
            straight = fit_linear(rows, label, categories=[names.index(column) for column in categories])
            users = np.arange(len(label)) // 40
            model = replace(fit_blend(model, straight, rows, label, users, folds=2)[0], share=0.3)
        (folder / f"{name}.txt").write_text(to_text(model), "utf-8")
        specs[name] = PriorSpec(prior.method, names, categories)
    alone = fit_linear(rows[inside][:, [COLUMNS["cvr"].index("similar_max")]], label[inside])
    specs["cvr"] = replace(specs["cvr"], fallback="similar_max", of_shopper=["seen_before"])
    (folder / "cvr.fallback.txt").write_text(to_text(alone), "utf-8")
    (folder / "priors.json").write_text(json.dumps(Priors(folder, specs).record()), "utf-8")
    return Priors.read(folder)


def write_prior_run(config: RunConfig) -> SlateModel:
    """The run folder of a prepared config; returns its model."""
    run, manifest = config.output, Manifest.read(config.data.folder)
    priors, vectors = fit_priors(config, run / "priors"), find_vectors(config).vectors
    spec = ModelSpec(
        config.backbone,
        config.lora,
        {"ctr": 1, "cvr": 1},
        ["diversity"],
        {"ctr": 0.0, "cvr": 0.0},
        config.seed,
        features=columns_of(manifest.features),
        priors=priors.names,
        comparison=ComparisonShape(vectors.shape[1], 8),
    )
    model = build_model(spec)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name or name.startswith("heads."):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    scales = {name: scale.model_dump() for name, scale in manifest.features.items()}
    texts = TextTemplates(manifest.prompt, manifest.history)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    save_adapters(run / "adapters", trained, AdapterInfo.of(spec, model, texts, scales))
    write_lists(run, {"prices": {}, "learned": {}})
    save_config(config, run / "config.yaml")
    return model.eval()


def slates_of_test(config: RunConfig) -> SlateSet:
    """The test split as evaluation reads it."""
    priors = Priors.read(config.output / "priors")
    known = split_columns(config, "test")
    log_odds = priors.log_odds(np.stack([known[column] for column in priors.columns], 1))
    return SlateSet(config.data.folder, "test", find_tokens(config), log_odds, find_vectors(config).vectors)


def requests_of(prepared: Path, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Slates as JSON requests: ready prefixes and contexts, features, and the things that shoppers took."""
    texts = pq.read_table(prepared / "things.parquet").column("text").to_pylist()
    items = pq.read_table(prepared / "items.parquet").column("item_id").to_pylist()
    for row in rows:
        # The category is of the item, which the export knows.
        names = [name for name in row if name.startswith("feature_") and name != "feature_category"]
        candidates = [
            {
                "item_id": items[item],
                "context": row["context"][n],
                "features": {
                    name.removeprefix("feature_"): row[name][n] for name in names if not np.isnan(row[name][n])
                },
            }
            for n, item in enumerate(row["item"])
        ]
        yield {"prefix": row["prefix"], "candidates": candidates, "recent": [texts[thing] for thing in row["things"]]}

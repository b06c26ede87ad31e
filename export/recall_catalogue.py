"""What an export holds to search its catalogue: the adapter of recall, vectors of all items, what recall began as."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from equipoise.common.sealed import seal
from equipoise.configs.schema import LoraConfig, RunConfig
from equipoise.data.recall_texts import Positives, TextLayout
from equipoise.data.slate_set import SlateSet
from equipoise.data.tokens import SlateTokenizer
from equipoise.export.adapters import VECTOR_HEAD, ServedClass, serve_as, write_adapter
from equipoise.export.item_index import SOURCES, RecallIndex, write_vectors
from equipoise.modeling.adapter_store import adapters_hash
from equipoise.modeling.heads import VectorHead
from equipoise.modeling.model import SlateModel
from equipoise.modeling.recall_sources import RecallSources
from equipoise.modeling.text_vectors import score_weights, text_vectors
from equipoise.train.recall_scores import keeps_vectors
from equipoise.train.recall_sources import run_sources
from equipoise.train.token_caches import find_tokens

INDEX = "index"
SCORE = "scale * dot(u, v_i) + prior * log p_i + repeat * log(1 + times bought) + sources; u, v unit vectors"


def export_recall(
    folder: Path,
    run: Path,
    adapters: Path,
    config: RunConfig,
    model: SlateModel,
    base: tuple[str, str | None],
    tokenizer: Any,
    slates: SlateSet,
    on_progress: Callable[[str], None],
) -> dict[str, Any]:
    """Write the adapter and the index of every objective of retrieval; returns their part of serving.json.

    Args:
        folder: of the export.
        run, adapters: its folder, whose sources are written, and its adapters.
        config: of the run, whose training split gives the items' popularity.
        model: the trained model.
        base: path and revision of the base for adapter_config.json.
        tokenizer: the backbone's Hugging Face tokenizer.
        slates: any split of the run's data, for its items.
        on_progress: called with a sentence of how far it is.
    """
    if not model.retrieval:
        return {}
    served = serve_as(model.backbone.config, "features", config.lora.targets)
    assert served is not None, "every backbone has a class without head"
    log_popularity = Positives(SlateSet(config.data.folder, "train", find_tokens(config)).tokens).log_popularity()
    sources, kept = run_sources(run), keeps_vectors(run, adapters_hash(adapters))
    ids, texts = SlateTokenizer(tokenizer, config.tokens, model.backbone.encoder, list), slates.items.texts
    records = {}
    for name in model.retrieval:
        records[name] = write_retrieval(folder / name, model, name, served, config.lora, base)
        if not kept:  # nor what else training added
            records[name]["weights"] = dict.fromkeys(records[name]["weights"], 0.0)
        vectors = item_vectors(model, name, ids, texts if kept else [], on_progress)
        catalogue = IndexedItems(vectors if kept else np.zeros((len(texts), 0), np.float32), log_popularity, sources)
        write_index(folder / name / INDEX, catalogue, records[name]["weights"])
    return {"retrieval": records}


def item_vectors(
    model: SlateModel,
    name: str,
    tokenizer: SlateTokenizer,
    texts: Sequence[str],
    on_progress: Callable[[str], None],
) -> np.ndarray:
    """Unit vectors of items, float32 (items, D), by their texts."""
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        on_progress(f"encoding items for {name}: {done:,} of {len(texts):,}")

    ids = tokenizer.candidates(list(texts), [""] * len(texts))
    return text_vectors(model, name, TextLayout(tokenizer, tokenizer.limits.max_row), ids, progress=progress)


@dataclass(frozen=True)
class IndexedItems:
    """What an index is made of.

    Attributes:
        vectors: unit vectors, float32 (I, D); D is 0 where a run scores without them.
        log_popularity: float32 (I,).
        sources: what the run began as; None of a run without.
    """

    vectors: np.ndarray
    log_popularity: np.ndarray
    sources: RecallSources | None


def write_index(folder: Path, items: IndexedItems, weights: dict[str, float], exact: bool | None = None) -> RecallIndex:
    """Write what `item_index.read_index` reads; with FAISS where the catalogue is large (or as asked)."""
    vectors, sources, length = items.vectors, items.sources, abs(weights["scale"]) if items.vectors.shape[1] else 0.0
    bias = (weights["prior"] * items.log_popularity).astype(np.float32)
    if sources is not None:
        bias = bias + sources.popularity()
        own = float(np.linalg.norm(sources.of_history, axis=1).mean()) if len(sources) else 0.0
        vectors, length = np.hstack([vectors, sources.of_item]), float(np.hypot(length, own))
    index = RecallIndex(vectors, bias, exact, length=length or 1.0)
    about = {
        "items": len(vectors),
        "dimension": int(vectors.shape[1]),
        "own_dimension": int(items.vectors.shape[1]),
        "exact": index.exact,
        "weights": weights,
        "length": index.length,
    }
    write_vectors(folder, vectors, bias, about)
    if sources is not None:
        sources.write(folder / SOURCES)
    index.save(folder / "index.faiss")
    seal(folder)
    return index


def write_retrieval(
    folder: Path, model: SlateModel, name: str, served: ServedClass, lora: LoraConfig, base: tuple[str, str | None]
) -> dict[str, Any]:
    """Write adapter_config.json, adapter_model.safetensors and the head into `folder`; its part of serving.json.

    Args:
        folder: the objective's folder, made here.
        model: the trained model.
        name: of the objective.
        served: the stock class without a head.
        lora: the adapters' settings in the run.
        base: path and revision of the base for adapter_config.json.
    """
    write_adapter(folder, model, name, served, lora, *base)
    head = cast(VectorHead, model.heads[name])
    return {
        "kind": "retrieval",
        "folder": folder.name,
        "head": VECTOR_HEAD,
        "dimension": head.project.out_features,
        "pooling": "mean" if model.backbone.encoder else "last",
        "score": SCORE,
        "weights": score_weights(model, name),
    }

"""The recall objective of an export: its adapter, and the vectors of the whole catalogue."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.configs.schema import RunConfig
from equipoise.data.recall_texts import Positives, TextLayout
from equipoise.data.slate_set import SlateSet
from equipoise.data.tokens import SlateTokenizer
from equipoise.export.item_index import RecallIndex, write_vectors
from equipoise.export.retrieval import write_retrieval
from equipoise.export.served import serve_as
from equipoise.modeling.model import SlateModel
from equipoise.modeling.text_vectors import text_vectors
from equipoise.train.token_caches import find_tokens

INDEX = "index"


def export_recall(
    folder: Path,
    config: RunConfig,
    model: SlateModel,
    base: tuple[str, str | None],
    tokenizer: Any,
    slates: SlateSet,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Write the adapter and the index of every objective of retrieval; returns their part of serving.json.

    Args:
        folder: of the export.
        config: of the run, whose training split gives the items' popularity.
        model: the trained model.
        base: path and revision of the base for adapter_config.json.
        tokenizer: the backbone's Hugging Face tokenizer.
        slates: any split of the run's data, for its items.
        tell: is told how far it is.
    """
    if not model.retrieval:
        return {}
    served = serve_as(model.backbone.config, "features", config.lora.targets)
    assert served is not None, "every backbone has a class without head"
    log_popularity = Positives(SlateSet(config.data.folder, "train", find_tokens(config)).tokens).log_popularity()
    ids, texts = SlateTokenizer(tokenizer, config.tokens, model.backbone.encoder, list), slates.items.texts
    records = {}
    for name in model.retrieval:
        records[name] = write_retrieval(folder / name, model, name, served, config.lora, base)
        vectors = item_vectors(model, name, ids, texts, tell)
        write_index(folder / name / INDEX, vectors, log_popularity, records[name]["weights"])
    return {"retrieval": records}


def item_vectors(
    model: SlateModel,
    name: str,
    tokenizer: SlateTokenizer,
    texts: Sequence[str],
    tell: Callable[[str], None],
) -> np.ndarray:
    """Unit vectors of items, float32 (items, D), by their texts."""
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        tell(f"encoding items for {name}: {done:,} of {len(texts):,}")

    ids = tokenizer.candidates(list(texts), [""] * len(texts))
    return text_vectors(model, name, TextLayout(tokenizer, tokenizer.limits.max_row), ids, progress=progress)


def write_index(
    folder: Path,
    vectors: np.ndarray,
    log_popularity: np.ndarray,
    weights: dict[str, float],
    exact: bool | None = None,
) -> RecallIndex:
    """Write what `item_index.read_index` reads; with FAISS where the catalogue is large (or as asked)."""
    bias = (weights["prior"] * log_popularity).astype(np.float32)
    index = RecallIndex(vectors, bias, exact, length=weights["scale"])
    about = {
        "items": len(vectors),
        "dimension": int(vectors.shape[1]),
        "exact": index.exact,
        "weights": weights,
        "length": index.length,
    }
    write_vectors(folder, vectors, bias, about)
    index.save(folder / "index.faiss")
    return index

"""What priors and fitted baselines read of a split: features and computed columns of every impression.

Shape suffixes: I impressions of a split, N chosen ones, F columns.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from equipoise.data.manifest import Manifest
from equipoise.data.token_cache import SplitTokens, TokenCache
from equipoise.train.thing_vectors import ThingVectors, rival_columns, thing_columns


def split_columns(
    manifest: Manifest, tokens: TokenCache, split: str, vectors: ThingVectors | None
) -> dict[str, np.ndarray]:
    """All columns that priors may read of a split, float32 (I,) each, by name: features, then computed ones."""
    of_split = tokens.split(split)
    columns = {name: of_split.features[name] for name in manifest.features}
    if vectors is None:
        return columns  # nothing is compared, even where the folder holds what could be
    computed = thing_columns(tokens, vectors, split) | rival_columns(manifest, tokens, vectors, split)
    return columns | dict(of_split.computed) | computed


def columns_to_read(manifest: Manifest, columns: Mapping[str, np.ndarray]) -> list[str]:
    """The columns that trees and linear models read by default: all but levels of thousands of ids.

    Those are for the heads: as categories of trees or of a regression they are learnt by heart.
    """
    return [name for name in columns if not getattr(manifest.features.get(name), "indexed", 0)]


def logit_columns(manifest: Manifest, columns: Sequence[str]) -> list[int]:
    """Positions of the columns that linear models read as log-odds: rates, and features of `scale: logit`."""
    scales = [getattr(manifest.features.get(column), "scale", None) for column in columns]
    return [position for position, scale in enumerate(scales) if scale == "logit"]


def read_columns(
    columns: Mapping[str, np.ndarray], names: Sequence[str], positions: np.ndarray | slice = slice(None)
) -> np.ndarray:
    """Some columns side by side, float32 (N, F), NaN where unknown; `positions`: of some impressions alone."""
    table = np.empty((len(columns[names[0]][positions]), len(names)), np.float32)
    for index, name in enumerate(names):
        table[:, index] = columns[name][positions]
    return table


def chosen_weights(tokens: SplitTokens, chosen: np.ndarray | slice) -> np.ndarray | None:
    """How much some impressions of a split count, float32; None where all count alike."""
    return None if tokens.weight is None else np.asarray(tokens.weight)[chosen]

"""Vectors of short texts by the frozen base alone, no adapter, by which candidates and histories are compared.

Training writes them for all things of a prepared folder, serving makes those of new texts, and an export's own check
repeats them with stock classes: the mean over a text's tokens, special ones included, of the last hidden states in
float32, scaled to unit length. Texts of as many tokens go through together, so that none needs padding.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import nn

from equipoise.configs.schema import BackboneConfig
from equipoise.modeling.backbone import load_backbone
from equipoise.modeling.base_config import load_model_config, load_tokenizer

MAX_TOKENS = 64
"""Tokens of a text that are read, special ones included: titles are shorter."""
BATCH_TOKENS = 8_192
REMEMBERED = 65_536
"""New texts whose vectors are kept, the ones asked for last."""


class FrozenText:
    """The frozen base as it makes vectors of texts; its weights are loaded when the first text asks for them.

    Args:
        backbone: of the run, or of an export.
        seed: of the weights where they are random.
        tokenizer: where it is loaded already; not one that other threads use, for cutting is a state of it.
        device: on which it computes.
    """

    def __init__(self, backbone: BackboneConfig, seed: int = 0, tokenizer: Any = None, device: str = "cpu") -> None:
        self.backbone, self.seed, self.device = backbone, seed, device
        self._tokenizer = tokenizer
        self._loading = Lock()

    @cached_property
    def size(self) -> int:
        """D of the vectors, without loading weights."""
        return int(load_model_config(self.backbone).hidden_size)

    @cached_property
    def _model(self) -> nn.Module:
        # Random weights follow the seed in their own dtype alone; written ones are read in full.
        dtype = self.backbone.dtype if self.backbone.init == "random" else "float32"
        plain = self.backbone.model_copy(update={"attention": "sdpa", "checkpointing": False, "dtype": dtype})
        model = load_backbone(plain, self.seed)
        return (model if self.backbone.quantize else model.float()).to(self.device).eval()

    def vectors(self, texts: Sequence[str], progress: Callable[[float], None] = lambda fraction: None) -> np.ndarray:
        """Unit vectors, float32 (n, D); 0 for a text without a token.

        Args:
            texts: in any order; equal ones are computed again.
            progress: is told the fraction of texts that are done.
        """
        with self._loading:
            model = self._model
            tokenizer = self._tokenizer = self._tokenizer or load_tokenizer(self.backbone)
            # What a fast tokenizer cuts at is a setting of its own, which threads share.
            ids = token_ids(tokenizer, texts)
        vectors = np.zeros((len(texts), self.size), np.float32)
        of_length: dict[int, list[int]] = {}
        for number, tokens in enumerate(ids):
            of_length.setdefault(len(tokens), []).append(number)
        done = len(of_length.pop(0, []))
        for length, numbers in sorted(of_length.items()):
            step = max(1, BATCH_TOKENS // length)
            for first in range(0, len(numbers), step):
                rows = numbers[first : first + step]
                with torch.inference_mode():
                    batch = torch.tensor([ids[row] for row in rows], device=self.device)
                    mean_BD = model(input_ids=batch).last_hidden_state.float().mean(1)
                    vectors[rows] = nn.functional.normalize(mean_BD, dim=-1).cpu().numpy()
                done += len(rows)
                progress(done / len(texts))
        return vectors


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The ids of texts with the tokenizer's special ones; what a text spells is never one of these."""
    if not texts:
        return []
    return tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS, split_special_tokens=True)["input_ids"]


class TextVectors:
    """Vectors by text: those that are known, and for other texts those of the base, of which the last are kept.

    Args:
        frozen: makes the vectors of other texts.
        known: by text the row among `vectors`.
        vectors: float (T, D), may be a mapped file.
        remembered: most other texts that are kept.
    """

    def __init__(
        self,
        frozen: FrozenText,
        known: Mapping[str, int] | None = None,
        vectors: np.ndarray | None = None,
        remembered: int = REMEMBERED,
    ) -> None:
        self.frozen, self.known, self.vectors = frozen, known or {}, vectors
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()
        self._remembered, self._lock = remembered, Lock()

    def of(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32 (n, D), in any thread."""
        found: dict[str, np.ndarray] = {}
        for text in dict.fromkeys(texts):
            if self.vectors is not None and text in self.known:
                found[text] = np.asarray(self.vectors[self.known[text]], np.float32)
        with self._lock:
            for text in texts:
                if text not in found and text in self._kept:
                    self._kept.move_to_end(text)
                    found[text] = self._kept[text]
        new = [text for text in dict.fromkeys(texts) if text not in found]
        if new:
            found |= zip(new, self.frozen.vectors(new), strict=True)
            with self._lock:
                self._kept |= {text: found[text] for text in new}
                while len(self._kept) > self._remembered:
                    self._kept.popitem(last=False)
        return np.stack([found[text] for text in texts]) if texts else np.zeros((0, self.frozen.size), np.float32)

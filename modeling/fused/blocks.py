"""One layer of frozen weights around an attention: what comes before it, and what comes behind.

Shape suffixes: K towers, F tokens of each, H hidden size, h and g query and key heads, D head size.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from equipoise.modeling.fused.kernels import Rotate
from equipoise.modeling.fused.lora import Linears, Pair

Rotary = tuple[torch.Tensor, torch.Tensor] | None
"""Cosines and sines of positions; None where embeddings tell positions."""
LayerNorm = tuple[torch.Tensor, torch.Tensor | None]
"""Weight and bias."""


@dataclass(frozen=True)
class Block:
    """A layer's frozen weights.

    Attributes:
        qkv, out, up, down: its linear layers; `up` are all that read the input of the feed-forward part.
        eps: of its normalisations.
        heads, key_heads, size: of its attention.
        scale: of its scores.
        causal: whether a token sees what precedes it alone, or all of its prefix or candidate.
        positions: which rotation tells positions, of models that have several; "": the only one.
    """

    qkv: Linears
    out: Linears
    up: Linears
    down: Linears
    eps: float
    heads: int
    key_heads: int
    size: int
    scale: float
    positions: str
    causal: ClassVar[bool]

    def _heads(self, x: torch.Tensor, pair: Pair) -> torch.Tensor:
        return self.qkv(x, pair).view(-1, self.heads + 2 * self.key_heads, self.size)

    @abstractmethod
    def before(
        self, x: torch.Tensor, residual: torch.Tensor | None, pair: Pair, rotary: Rotary
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries, keys and values (K·F, h + 2g, D), and the new residual, of x (K, F, H) and the residual before."""

    @abstractmethod
    def behind(
        self, attended: torch.Tensor, residual: torch.Tensor, pairs: Sequence[Pair]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """From what the attention gives (K, F, h·D) to what the layer gives, and the residual still to be added."""

    def last(self, x: torch.Tensor, residual: torch.Tensor | None, norm: Any) -> torch.Tensor:
        """What the model gives, of what its last layer gives: `norm` is the normalisation behind it."""
        return norm(x if residual is None else x + residual)


@dataclass(frozen=True)
class BertBlock(Block):
    """LayerNorm behind each part and its residual, as BERT has it (Devlin et al. 2019); positions are embedded.

    Attributes:
        norm_attention, norm_mlp: weight and bias of its normalisations.
        activation: of the feed-forward part.
    """

    norm_attention: LayerNorm
    norm_mlp: LayerNorm
    activation: Callable[[torch.Tensor], torch.Tensor]
    causal: ClassVar[bool] = False

    def before(
        self, x: torch.Tensor, residual: torch.Tensor | None, pair: Pair, rotary: Rotary
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._heads(x, pair), x

    def behind(
        self, attended: torch.Tensor, residual: torch.Tensor, pairs: Sequence[Pair]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        x = self._normed(self.out(attended, pairs[0]), residual, self.norm_attention)
        inner = self.activation(self.up(x, pairs[1]))
        return self._normed(self.down(inner, pairs[2]), x, self.norm_mlp), None

    def _normed(self, x: torch.Tensor, residual: torch.Tensor, norm: LayerNorm) -> torch.Tensor:
        return nn.functional.layer_norm(x + residual, x.shape[-1:], *norm, self.eps)


@dataclass(frozen=True)
class ModernBertBlock(Block):
    """LayerNorm before each part, rotary positions, a gated feed-forward part (Warner et al. 2024).

    Its windows are longer than any prompt here (equipoise.modeling.prompt_limit).

    Attributes:
        norm_in, norm_mlp: weight and bias of its normalisations; the first layer has none before its attention.
        activation: of the gates.
    """

    norm_in: LayerNorm | None
    norm_mlp: LayerNorm
    activation: Callable[[torch.Tensor], torch.Tensor]
    causal: ClassVar[bool] = False

    def before(
        self, x: torch.Tensor, residual: torch.Tensor | None, pair: Pair, rotary: Rotary
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert rotary is not None, "its positions are told by rotation"
        residual = x if residual is None else x + residual
        qkv = self._heads(residual if self.norm_in is None else self._normed(residual, self.norm_in), pair)
        return Rotate.apply(qkv, *rotary, self.heads + self.key_heads), residual

    def behind(
        self, attended: torch.Tensor, residual: torch.Tensor, pairs: Sequence[Pair]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        residual = self.out(attended, pairs[0]) + residual
        gates, values = self.up(self._normed(residual, self.norm_mlp), pairs[1]).chunk(2, -1)
        return self.down(self.activation(gates) * values, pairs[2]), residual

    def _normed(self, x: torch.Tensor, norm: LayerNorm) -> torch.Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:], *norm, self.eps)

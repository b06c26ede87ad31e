"""Packing: how one batch goes through the backbone. The model knows nothing else of rows, padding and attention.

Whoever computes a batch in another way (fused layers, all towers as one batch) writes a `Packing` of their own.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch


class Packing(ABC):
    """One batch on its way through the backbone: `encode` first, then towers over (views of) what it gave."""

    @property
    @abstractmethod
    def computed_tokens(self) -> int:
        """Tokens that the linear layers compute, padding included."""

    @abstractmethod
    def encode(self) -> list[torch.Tensor]:
        """Run the trunk; returns the tensors that towers read, candidates' first."""

    @abstractmethod
    def run_tower(self, name: str, parts: Sequence[torch.Tensor], pooling: str | None = None) -> torch.Tensor:
        """The vectors of all candidates, (N, H), as objective `name` sees them.

        Args:
            name: of the objective.
            parts: what `encode` gave, or views of it.
            pooling: `last` or `mean`, instead of the backbone's.
        """

    def run_towers(self, parts: Mapping[str, Sequence[torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The vectors of all candidates for several objectives, each from its own parts; here one after another."""
        return {name: self.run_tower(name, own) for name, own in parts.items()}

    def groups(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        """Objectives whose towers run as one batch where their losses are taken one after another; none as it is."""
        return []

    def run_together(self, names: Sequence[str], stacked: Sequence[torch.Tensor]) -> torch.Tensor:
        """The vectors of all candidates for K objectives whose towers run as one batch, (K, N, H).

        Args:
            names: of the objectives.
            stacked: their parts, those of one tower after those of another along the first dimension.
        """
        raise NotImplementedError("this packing has no groups")

    @abstractmethod
    def tokens_of_candidates(self, parts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens of all candidates among what `encode` gave, (F, H), and the candidate of each, int64 (F,)."""

    @abstractmethod
    def mean_of_candidates(self, states: torch.Tensor) -> torch.Tensor:
        """The mean over each candidate's tokens, (N, H), of the states of all tokens that the trunk has read."""


class Flattener:
    """Several tensors as one, and back: what towers share is one tensor at the boundary, whatever it is made of.

    Args:
        parts: at least one tensor, all on one device; their shapes and dtypes are remembered.
    """

    def __init__(self, parts: Sequence[torch.Tensor]) -> None:
        self._shapes = [part.shape for part in parts]
        self._dtypes = [part.dtype for part in parts]

    def flatten(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """One tensor with all elements, differentiable; a single part is returned as it is."""
        if len(parts) == 1:
            return parts[0]
        widest = self._dtypes[0]
        for dtype in self._dtypes[1:]:
            widest = torch.promote_types(widest, dtype)
        return torch.cat([part.reshape(-1).to(widest) for part in parts])

    def unflatten(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """The parts, differentiable, in their shapes and dtypes."""
        if len(self._shapes) == 1:
            return [flat]
        pieces = flat.split([shape.numel() for shape in self._shapes])
        return [
            piece.view(shape).to(dtype) for piece, shape, dtype in zip(pieces, self._shapes, self._dtypes, strict=True)
        ]

    def unflatten_towers(self, flat_K: torch.Tensor) -> list[torch.Tensor]:
        """The parts of K towers, each part of one tower after that of another along its first dimension."""
        pieces = flat_K.split([shape.numel() for shape in self._shapes], 1)
        return [
            piece.reshape(len(flat_K) * shape[0], *shape[1:]).to(dtype)
            for piece, shape, dtype in zip(pieces, self._shapes, self._dtypes, strict=True)
        ]

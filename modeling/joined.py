"""Several tensors as one, and back: what towers share is one tensor at the boundary, whatever it is made of."""

from collections.abc import Sequence

import torch


class Joined:
    """The shapes and dtypes of the parts, from which the whole is split again.

    Args:
        parts: at least one tensor, all on one device.
    """

    def __init__(self, parts: Sequence[torch.Tensor]) -> None:
        self._shapes = [part.shape for part in parts]
        self._dtypes = [part.dtype for part in parts]

    def join(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """One tensor with all elements, differentiable; a single part is returned as it is."""
        if len(parts) == 1:
            return parts[0]
        widest = self._dtypes[0]
        for dtype in self._dtypes[1:]:
            widest = torch.promote_types(widest, dtype)
        return torch.cat([part.reshape(-1).to(widest) for part in parts])

    def split(self, whole: torch.Tensor) -> list[torch.Tensor]:
        """The parts, differentiable, in their shapes and dtypes."""
        if len(self._shapes) == 1:
            return [whole]
        pieces = whole.split([shape.numel() for shape in self._shapes])
        return [
            piece.view(shape).to(dtype) for piece, shape, dtype in zip(pieces, self._shapes, self._dtypes, strict=True)
        ]

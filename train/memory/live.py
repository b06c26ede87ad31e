"""How many bytes are alive at once while code runs: counted tensor by tensor, on any device, real or fake.

Each storage that an operation brings into being is counted from then on until it is freed. What was there before the
block (weights, batches) counts nothing; neither does scratch memory inside one kernel, which no tensor stands for.
"""

import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def storages(values: Any) -> Iterator[torch.UntypedStorage]:
    """The storages of all tensors in a nest of values; those of a tensor without one (sparse, …) are left out."""
    for leaf in tree_leaves(values):
        if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided:
            yield leaf.untyped_storage()


class LiveMemory(TorchDispatchMode):
    """Counts while it is entered: `with LiveMemory() as memory: …; memory.peak`.

    Attributes:
        now: bytes alive at present that were made inside the block.
        peak: the most that `now` has been.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for storage in storages((args, kwargs)):
            self._known.add(storage)  # whatever is not known by now was there before
        result = func(*args, **(kwargs or {}))
        for storage in storages(result):
            self._count(storage)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, size).atexit = False

    def _free(self, size: int) -> None:
        self.now -= size

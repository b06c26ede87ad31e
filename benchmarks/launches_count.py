"""Counts the operations of a step that would be kernels on a GPU, and its waits for the device, on a CPU.

Every operation that reaches PyTorch's dispatcher is taken for one launch, but for those that only make views. Tensors
that come from a batch or a parameter are taken to lie on the device: reading one of their values, or choosing by them
what shape comes next, waits for it. The attention kernels of GPUs are emulated, so that the code that runs is the code
that runs there.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from equipoise.modeling import boundary, layout, towers
from equipoise.modeling.attention import memory_efficient, partial
from equipoise.modeling.backbone import SplitBackbone
from equipoise.modeling.operations import KERNELS
from equipoise.train.loop import Loop

VIEWS = {
    *("view", "_unsafe_view", "reshape", "t", "transpose", "permute", "expand", "slice", "select", "split"),
    *("unsqueeze", "squeeze", "detach", "alias", "as_strided", "unbind", "split_with_sizes", "empty"),
    *("new_empty", "empty_like", "empty_strided", "new_empty_strided", "_reshape_alias", "lift_fresh", "chunk"),
    *("narrow", "diagonal", "view_as", "expand_as", "movedim", "sym_size", "sym_numel", "is_same_size", "set_"),
    *("resize_", "_local_scalar_dense", "_has_compatible_shallow_copy_type", "unsafe_split"),
}
SHAPES_FROM_VALUES = frozenset({"nonzero", "masked_select", "bincount", "_unique2", "unique_dim"})


class LaunchCounter(TorchDispatchMode):
    """Counts while it is entered; nothing while an operation computes or a value is read.

    Attributes:
        launches: part of the step → operation → number.
        views: operations that only make views.
        waits: place in the code → number.
        inside: while an operation computes, which a kernel would do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.part = "other"
        self.launches: dict[str, Counter[str]] = defaultdict(Counter)
        self.views = 0
        self.waits: Counter[str] = Counter()
        self.inside = False
        self._on_device: dict[int, Any] = {}  # storages, held so that no address is used again

    @property
    def total(self) -> int:
        """Launches of all parts."""
        return sum(sum(each.values()) for each in self.launches.values())

    def place(self, tensor: torch.Tensor) -> None:
        """Take a tensor to lie on the device."""
        storage = tensor.untyped_storage()
        self._on_device[storage._cdata] = storage

    def holds(self, value: Any) -> bool:
        """Whether a tensor lies on the device."""
        return isinstance(value, torch.Tensor) and value.untyped_storage()._cdata in self._on_device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if self.inside:
            return func(*args, **kwargs)
        held = any(self.holds(leaf) for leaf in tree_leaves((args, kwargs)))
        before, self.inside = self.inside, True
        try:
            found = EMULATED.get(name, func)(*args, **kwargs)
        finally:
            self.inside = before
        if not held:
            return found
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor):
                self.place(leaf)
        if name in VIEWS or (name == "to" and found is args[0]):  # in inference mode also where nothing is cast
            self.views += name != "_local_scalar_dense"
        else:
            self.launches[self.part][name] += KERNELS.get(name, 1)
        if name in SHAPES_FROM_VALUES or name == "_local_scalar_dense" or self._chooses_by_mask(name, func, args):
            self.waits[f"{self.part}: {name}"] += 1
        return found

    def _chooses_by_mask(self, name: str, func: Any, args: Any) -> bool:
        if name == "repeat_interleave" and func._overloadname == "Tensor":
            return True
        indexing = name in ("index", "index_put", "index_put_", "_index_put_impl_")
        return indexing and any(each is not None and each.dtype == torch.bool and self.holds(each) for each in args[1])


def _reading(counter: LaunchCounter, name: str) -> Any:
    """A method of tensors that also counts as a wait where the tensor lies on the device."""
    original = getattr(torch.Tensor, name)

    def read(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if counter.inside or not counter.holds(tensor):
            return original(tensor, *args, **kwargs)
        counter.waits[f"{counter.part}: {name}"] += 1
        counter.inside = True  # what it is made of is no second wait, and what comes back lies on the host
        try:
            return tensor.detach().clone() if name == "cpu" else original(tensor, *args, **kwargs)
        finally:
            counter.inside = False

    return patch.object(torch.Tensor, name, read)


def _attend(q: Any, k: Any, v: Any, bias: Any, *rest: Any, scale: float, **more: Any) -> tuple[Any, ...]:
    """torch.ops.aten._efficient_attention_forward, by plain operations."""
    causal = bool(rest[5])
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    scores = (q.float() @ k.float().transpose(-1, -2)) * scale
    scores = scores if bias is None else scores + bias.float()
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    lse, zero = scores.logsumexp(-1), torch.zeros((), dtype=torch.int64)
    out = (torch.exp(scores - lse[..., None]) @ v.float()).to(v.dtype).transpose(1, 2).contiguous()
    padded = torch.nn.functional.pad(lse, (0, -lse.shape[-1] % memory_efficient.QUERIES))
    return out, padded, zero, zero, q.shape[2], k.shape[2]


def _attend_backward(
    grad: Any, q: Any, k: Any, v: Any, bias: Any, out: Any, cu_q: Any, cu_k: Any, mq: Any, mk: Any, lse: Any,
    *rest: Any, scale: float, **more: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """torch.ops.aten._efficient_attention_backward, by plain operations."""
    causal, dtype = bool(rest[3]), q.dtype
    grad, q, k, v, out = (x.transpose(1, 2).float() for x in (grad, q, k, v, out))
    scores = (q @ k.transpose(-1, -2)) * scale
    scores = scores if bias is None else scores + bias.float()
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    p = torch.exp(scores - lse[..., : q.shape[2], None])
    ds = p * ((grad @ v.transpose(-1, -2)) - (grad * out).sum(-1, keepdim=True)) * scale
    parts = (ds @ k, ds.transpose(-1, -2) @ q, p.transpose(-1, -2) @ grad)
    return (*(x.to(dtype).transpose(1, 2) for x in parts), torch.empty(0))


EMULATED: dict[str, Callable[..., Any]] = {
    "_efficient_attention_forward": _attend,
    "_efficient_attention_backward": _attend_backward,
}


@contextmanager
def counting(counter: LaunchCounter) -> Iterator[None]:
    """Count what runs inside, by part of a training step, with the attention kernels of GPUs."""

    def named(owner: Any, name: str, part: str) -> Any:
        original = owner.__dict__[name]
        function = original.__func__ if isinstance(original, staticmethod) else original

        def inside(*args: Any, **kwargs: Any) -> Any:
            before, counter.part = counter.part, part
            try:
                return function(*args, **kwargs)
            finally:
                counter.part = before

        return patch.object(owner, name, staticmethod(inside) if isinstance(original, staticmethod) else inside)

    with ExitStack() as stack:
        for owner, name, part in (
            (SplitBackbone, "encode", "trunk"),
            (towers.Towers, "add", "tower backward"),
            (towers.Towers, "take_gradients", "handing on"),
            (boundary.StepContext, "balance", "boundary"),
            (layout.SlateLayout, "of", "layout"),
            (Loop, "_apply", "optimizer"),
            (Loop, "_totals", "loop"),
            (Loop, "_account", "loop"),
        ):
            stack.enter_context(named(owner, name, part))
        stack.enter_context(patch.object(memory_efficient, "takes", lambda q, v: True))
        stack.enter_context(patch.object(partial, "_fused", lambda q, v: False))
        for name in ("cpu", "tolist", "numpy"):
            stack.enter_context(_reading(counter, name))
        stack.enter_context(counter)
        yield

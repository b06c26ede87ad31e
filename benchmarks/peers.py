"""LibMTL and TorchJD at parameter level, as their users would run them on our model.

Both are given the losses of one forward and fill `.grad` of the shared adapter with the balanced gradient and those of
towers and heads with the plain one; clipping and the optimizer come after them, as for us.

LibMTL (`pip install --no-deps LibMTL==1.1.5`) imports torchvision, of which it needs nothing here and which has no
build for every torch: an empty stand-in takes its place, in the benchmarks alone. Its zeroed gradients must stay
tensors (torch ≥ 2 makes them None, where LibMTL 1.1.5 fails). Its CAGrad is written for three objectives.
"""

import importlib
import importlib.util
import random
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import nn

from benchmarks.workload import Backward, RememberingStep, Workload

STAND_INS = ("torchvision", "torchvision.models", "torchvision.models.utils")

LIBMTL: dict[str, tuple[str, dict[str, Any]]] = {
    "mgda": ("MGDA", {"mgda_gn": "none"}),
    "pcgrad": ("PCGrad", {}),
    "cagrad": ("CAGrad", {"calpha": 0.4, "rescale": 0}),
    "imtl_g": ("IMTL", {}),
    "gradvac": ("GradVac", {"beta": 0.5}),
}
"""Our method → LibMTL's class and the settings that make it the same method."""

LIBMTL_STACKED = ("imtl_g",)
"""Reads the losses as one tensor. The others get them one by one, which is kinder than LibMTL's own trainer: out of one
tensor, each of the K backwards runs through all K towers, with zeros in all but one."""

LIBMTL_ONLY_FOR = {"cagrad": 3}
"""LibMTL's CAGrad reshapes to (1, 3)."""

TORCHJD: dict[str, tuple[str, dict[str, Any]]] = {
    "mgda": ("MGDA", {}),
    "pcgrad": ("PCGrad", {}),
    "cagrad": ("CAGrad", {"c": 0.4}),
    "imtl_g": ("IMTLG", {}),
    "gradvac": ("GradVac", {}),
    "upgrad": ("UPGrad", {}),
    "dualproj": ("DualProj", {}),
    "aligned": ("AlignedMTL", {}),
    "fairgrad": ("FairGrad", {"alpha": 2.0}),
    "nash": ("NashMTL", {}),
}
"""Our method → TorchJD's aggregator and its settings."""


def has_libmtl() -> bool:
    """Whether LibMTL is installed."""
    return importlib.util.find_spec("LibMTL") is not None


def has_torchjd() -> bool:
    """Whether TorchJD is installed."""
    return importlib.util.find_spec("torchjd") is not None


def _libmtl_weighting(name: str) -> type:
    """One of LibMTL's classes; the stand-ins are gone again when it is imported."""
    before = {module: sys.modules.get(module) for module in STAND_INS}
    for module in STAND_INS:
        sys.modules[module] = ModuleType(module)
    sys.modules[STAND_INS[-1]].load_state_dict_from_url = None  # type: ignore[attr-defined]
    try:
        return getattr(importlib.import_module("LibMTL.weighting"), name)
    finally:
        for module, present in before.items():
            del sys.modules[module]
            if present is not None:
                sys.modules[module] = present


def libmtl(workload: Workload, method: str, seed: int = 0) -> Backward:
    """LibMTL's weighting class, mixed into what it asks of a model (`get_share_params` and its kin)."""
    class_name, settings = LIBMTL[method]
    shared, count = workload.shared(), len(workload.names)

    class Trainer(_libmtl_weighting(class_name)):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.task_num, self.task_name, self.device, self.rep_grad = count, workload.names, workload.device, False
            self.init_param()

        def get_share_params(self) -> Sequence[nn.Parameter]:
            return shared

        def zero_grad_share_params(self) -> None:
            for parameter in shared:
                if parameter.grad is not None:
                    parameter.grad.zero_()

    trainer = Trainer()
    random.seed(seed)

    def backward(losses: Sequence[torch.Tensor]) -> Any:
        return trainer.backward(torch.stack(list(losses)) if method in LIBMTL_STACKED else losses, **settings)

    return backward


class TorchJD:
    """TorchJD's aggregator over the Jacobian of the losses with respect to the shared adapter.

    Attributes:
        chunk: objectives differentiated at once; None is TorchJD's own choice (all, through vmap). It becomes 1 where
            vmap cannot go through the backbone.
    """

    def __init__(self, workload: Workload, method: str, seed: int = 0) -> None:
        from torchjd import aggregation

        class_name, settings = TORCHJD[method]
        settings = {**settings, "n_tasks": len(workload.names)} if class_name == "NashMTL" else settings
        self.aggregator = getattr(aggregation, class_name)(**settings)
        self.workload, self.chunk = workload, None if _vmap_goes_through(workload) else 1
        torch.manual_seed(seed)

    def __call__(self, losses: Sequence[torch.Tensor]) -> torch.Tensor | None:
        from torchjd.autojac import jac_to_grad, mtl_backward

        assert self.workload.context.z is not None
        shared = self.workload.shared()
        mtl_backward(
            list(losses),
            features=self.workload.context.z,
            tasks_params=[self.workload.model.own_parameters[name] for name in self.workload.names],
            shared_params=shared,
            parallel_chunk_size=self.chunk,
        )
        return jac_to_grad(shared, self.aggregator)


def _vmap_goes_through(workload: Workload) -> bool:
    """Whether the trunk can be differentiated for several objectives at once."""
    workload.losses()
    z, shared = workload.context.z, workload.shared()
    assert z is not None
    try:
        torch.autograd.grad(z, shared, torch.stack([torch.ones_like(z)] * 2), is_grads_batched=True)
    except RuntimeError:
        return False
    finally:
        workload.context = RememberingStep()
    return True

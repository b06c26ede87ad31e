"""Any Gramian weighting of TorchJD by name: `method: torchjd:UPGrad` (Quinton & Rey 2024, "Jacobian Descent for
Multi-Objective Optimization", and its library).

The weighting reads the float64 Gram matrix of the gradients times their preference, or, where its constructor knows a
`pref_vector`, that of the gradients, with the preference (Σ = 1) as this vector. So weightings that seek equal progress
(MGDA, IMTLG) undo the preference: use `mgda` and `imtl_g` of this package instead. Tolerances are TorchJD's, and mostly
absolute: below norms of about 1e-4 many weightings return the mean. PCD's primary objective is the first in the solve.
"""

import difflib
import importlib
import inspect
from typing import Any

import numpy as np
import torch

from equipoise.common.errors import UserError
from equipoise.configs.balancing import WITHOUT_GRAM
from equipoise.train.balancing.gradient_stats import GradientStats, Weighting

TRIAL = 8
"""Objectives of the solve that tries the weighting out before any training."""


class TorchJD(Weighting):
    """One weighting, and its state; a stateful one per set of objectives, for TorchJD keeps state by position.

    An objective that drops out of a solve is met by another copy, which the state without it belongs to; when it is
    back, the copy that knew it goes on.

    Args:
        name: `NAME` of `torchjd.aggregation.NAMEWeighting`.
        options: arguments of its constructor; one number per objective is written `{objective: number}`.

    Raises:
        UserError: TorchJD or a solver of it is missing, or the name or the arguments are wrong.
    """

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self._name, self._options = name, dict(options)
        self._kind, self._stateful = _find(name)
        self._takes_preference = "pref_vector" in inspect.signature(self._kind).parameters
        self._copies: dict[tuple[str, ...], torch.nn.Module] = {}
        self._try_out()

    def compute_weights(self, stats: GradientStats) -> np.ndarray:
        """The weighting's answer, float64 (A,), on the gradients.

        Raises:
            LinAlgError: it failed, or returned something not finite or of another length.
        """
        scale = np.ones(len(stats.names)) if self._takes_preference else stats.preference
        weighting = self._weighting(stats)
        gram = torch.from_numpy(stats.gram * np.outer(scale, scale))
        # Not torch.manual_seed, which would seed the GPUs as well.
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(stats.step)
            try:
                answer = weighting(gram)
            except Exception as error:  # whatever its solvers raise
                raise np.linalg.LinAlgError(f"torchjd:{self._name} failed: {error}") from error
        alpha = answer.detach().numpy().astype(np.float64)
        if alpha.shape != (len(stats.names),) or not np.isfinite(alpha).all():
            raise np.linalg.LinAlgError(f"torchjd:{self._name} returned {alpha.tolist()}")
        return alpha * scale

    def _weighting(self, stats: GradientStats) -> torch.nn.Module:
        key = stats.names if self._stateful else ()
        vectors = any(isinstance(value, dict) for value in self._options.values())
        if key not in self._copies or (vectors and not self._stateful):
            try:
                self._copies[key] = self._build(stats.names)
            except KeyError as error:
                raise np.linalg.LinAlgError(f"torchjd:{self._name} has no number for objective {error}") from error
        weighting = self._copies[key]
        if self._takes_preference:
            weighting.pref_vector = torch.from_numpy(stats.preference / stats.preference.sum())
        return weighting

    def _build(self, names: tuple[str, ...]) -> torch.nn.Module:
        """A fresh weighting for objectives of these names."""
        options = {
            key: torch.tensor([float(value[name]) for name in names], dtype=torch.float64)
            if isinstance(value, dict)
            else value
            for key, value in self._options.items()
        }
        return self._kind(**options)

    def _try_out(self) -> None:
        """Build one and let it solve: a solver that is missing shows here, and not after the first batch."""
        if "pref_vector" in self._options:
            raise UserError("options.pref_vector is set by the objectives: set objectives.NAME.weight instead")
        mappings = [value for value in self._options.values() if isinstance(value, dict)]
        names = tuple(mappings[0]) if mappings else tuple(str(k) for k in range(TRIAL))
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                self._build(names)(torch.eye(len(names), dtype=torch.float64))
        except ImportError as error:
            raise UserError(_missing(self._name)) from error
        except Exception as error:
            known = ", ".join(n for n in inspect.signature(self._kind).parameters if n != "pref_vector") or "none"
            reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else repr(error)
            raise UserError(
                f"balancing.options is refused by torchjd:{self._name} ({reason}): its options are {known}; one number "
                "per objective is written {objective: number}"
            ) from error

    def state(self) -> dict[str, Any]:
        """What differs from a fresh weighting, by set of objectives."""
        if not self._stateful:
            return {}
        return {"copies": [[list(names), self._changes(names)] for names in self._copies]}

    def _changes(self, names: tuple[str, ...]) -> dict[str, Any]:
        now, fresh = _attributes(self._copies[names]), _attributes(self._build(names))
        return {key: value for key, value in now.items() if key not in fresh or value != fresh[key]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._copies = {}
        for names, changes in state.get("copies", []):
            weighting = self._copies[tuple(names)] = self._build(tuple(names))
            for key, value in changes.items():
                setattr(weighting, key, _decode(value))


def _find(name: str) -> tuple[type, bool]:
    """The class NAMEWeighting, and whether it is stateful."""
    try:
        library = importlib.import_module("torchjd.aggregation")
        stateful = importlib.import_module("torchjd").Stateful
    except ImportError as error:
        raise UserError(_missing(name)) from error
    if name in WITHOUT_GRAM:
        raise UserError(f"balancing.method torchjd:{name} cannot be used, for it {WITHOUT_GRAM[name]}")
    ending = "Weighting"
    known = [n.removesuffix(ending) for n in library.__all__ if n.endswith(ending) and n != ending]
    known = [n for n in known if n not in WITHOUT_GRAM]
    if name not in known:
        near = difflib.get_close_matches(name.lower(), [n.lower() for n in known], n=3)
        choice = " or torchjd:".join([n for n in known if n.lower() in near] or known)
        raise UserError(f"TorchJD has no weighting '{name}': set balancing.method to torchjd:{choice}")
    kind = getattr(library, name + ending)
    return kind, issubclass(kind, stateful)


def _missing(name: str) -> str:
    return f"balancing.method torchjd:{name} needs TorchJD and its solvers: pip install equipoise[torchjd]"


def _attributes(weighting: torch.nn.Module) -> dict[str, Any]:
    """Buffers and plain attributes, as JSON; what JSON cannot say (projectors, hooks) is no state."""
    plain = {key: value for key, value in vars(weighting).items() if key not in vars(torch.nn.Module())}
    encoded = {key: _encode(value) for key, value in {**plain, **dict(weighting.named_buffers())}.items()}
    return {key: value for key, value in encoded.items() if value is not NotImplemented}


def _encode(value: Any) -> Any:
    """JSON that `_decode` turns back into the very same; NotImplemented where there is none."""
    if isinstance(value, torch.Tensor):
        return {"tensor": value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, tuple):
        return {"tuple": [_encode(part) for part in value]}
    return value if value is None or isinstance(value, bool | int | float | str) else NotImplemented


def _decode(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return torch.tensor(value["tensor"], dtype=getattr(torch, value["dtype"]))
    if "tuple" in value:
        return tuple(_decode(part) for part in value["tuple"])
    return torch.device(value["device"]) if "device" in value else getattr(torch, value["dtype"])

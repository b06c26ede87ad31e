"""The simple models that objectives begin as, on disk and in use: raw columns of candidates become log-odds.

A folder of priors holds priors.json (names of the columns, and what each objective's prior reads), NAME.txt, the text
of a model (`equipoise.modeling.simple_models`), NAME.fallback.txt, that of its fallback where it has one, and, of a
linear model that was resampled, NAME.response.npz (`equipoise.modeling.response`). One class serves training,
evaluation and requests, so that all get the same numbers.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.common.errors import UserError
from equipoise.common.sealed import refuse_changed, seal
from equipoise.modeling.linear_model import LinearModel
from equipoise.modeling.response import SUFFIX, LinearResponse
from equipoise.modeling.simple_models import Blend, from_text, log_odds

if TYPE_CHECKING:
    from lightgbm import Booster

FILE, FALLBACK = "priors.json", ".fallback.txt"
LARGEST_SHARE = 0.95
"""Of an objective that is given another: its probability is at most this share, where both models are rough."""
FARTHEST = 12.0
"""Log-odds are kept between −12 and 12, a chance of six in a million, so that a score of ours stays a finite number."""


@dataclass(frozen=True)
class PriorSpec:
    """What the prior of one objective is.

    Attributes:
        method: trees, linear, blend or column.
        columns: names of what it reads, in its own order.
        categories: those of them that are categories.
        before: objectives whose probability its model's one is divided by, as that is of the whole chain.
        scale: of a column: log_odds or probability.
        fallback: the column that alone decides where all `of_shopper` are unknown; None where the model always does.
        of_shopper: columns that tell of the shopper.
        counted: those of them that count what the shopper was shown, 0 of a new one.
    """

    method: str
    columns: list[str]
    categories: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    scale: str = "log_odds"
    fallback: str | None = None
    of_shopper: list[str] = field(default_factory=list)
    counted: list[str] = field(default_factory=list)

    def untold(self, own_NF: np.ndarray) -> np.ndarray:
        """The rows of `columns` whose shopper is unknown, bool (N,); none of a prior without fallback."""
        if self.fallback is None:
            return np.zeros(len(own_NF), bool)
        values_NS = own_NF[:, [self.columns.index(column) for column in self.of_shopper]]
        counted_S = np.isin(self.of_shopper, self.counted)
        return (np.isnan(values_NS) | (counted_S & (values_NS == 0))).all(axis=1)

    def of_fallback(self, own_NF: np.ndarray) -> np.ndarray:
        """The fallback's column, of `columns`, (N, 1)."""
        assert self.fallback is not None, "the prior has one"
        return own_NF[:, [self.columns.index(self.fallback)]]


class Priors:
    """The priors of a run, in the order of the model's input.

    Args:
        folder: that holds them.
        specs: by the names of the objectives.

    Attributes:
        columns: names of all columns that any of them reads, in the order of `log_odds`.
    """

    def __init__(self, folder: Path, specs: Mapping[str, PriorSpec]) -> None:
        self.folder, self.specs = folder, dict(specs)
        self.columns = list(dict.fromkeys(column for spec in self.specs.values() for column in spec.columns))

    @classmethod
    def read(cls, folder: Path) -> "Priors":
        """The priors of a folder; none where there is no such folder.

        Raises:
            UserError: its record is broken.
        """
        path = folder / FILE
        if not path.is_file():
            return cls(folder, {})
        refuse_changed(folder, "restore it, or prepare and train again")
        try:
            record = json.loads(path.read_text("utf-8"))
            return cls(folder, {name: PriorSpec(**about) for name, about in record["priors"].items()})
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is broken: train again or restore the file") from error

    @property
    def names(self) -> list[str]:
        """The objectives that have one."""
        return list(self.specs)

    def write(self, folder: Path) -> None:
        """Write record and models into a folder that is new, or replaces what it held."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, spec in self.specs.items():
            if spec.method != "column":
                shutil.copyfile(self.folder / f"{name}.txt", folder / f"{name}.txt")
            for ending in (FALLBACK, SUFFIX):
                if (self.folder / f"{name}{ending}").is_file():
                    shutil.copyfile(self.folder / f"{name}{ending}", folder / f"{name}{ending}")
        (folder / FILE).write_text(json.dumps(self.record(), indent=2) + "\n", "utf-8")
        seal(folder)

    def same_as(self, other: "Priors") -> bool:
        """Whether the other ones are the same models of the same columns."""

        def files(priors: "Priors") -> dict[str, bytes]:
            paths = [priors.folder / f"{name}{ending}" for name in priors.names for ending in (".txt", FALLBACK)]
            return {path.name: path.read_bytes() for path in paths if path.is_file()}

        return self.record() == other.record() and files(self) == files(other)

    def record(self) -> dict[str, Any]:
        """What priors.json holds."""
        return {"format": 1, "priors": {name: asdict(spec) for name, spec in self.specs.items()}}

    @cached_property
    def models(self) -> dict[str, "Booster | LinearModel | Blend"]:
        """The fitted models, read when they are asked for.

        Raises:
            UserError: a file is missing or broken, or LightGBM is not installed.
        """
        return {name: self._model(f"{name}.txt") for name, spec in self.specs.items() if spec.method != "column"}

    @cached_property
    def fallbacks(self) -> dict[str, "Booster | LinearModel | Blend"]:
        """The models of shoppers of whom nothing is known; raises as `models`."""
        return {name: self._model(f"{name}{FALLBACK}") for name, spec in self.specs.items() if spec.fallback}

    def _model(self, file: str) -> "Booster | LinearModel | Blend":
        try:
            return from_text((self.folder / file).read_text("utf-8"))
        except OSError as error:
            raise UserError(f"{self.folder / file} is missing: train again or restore the file") from error

    @cached_property
    def responses(self) -> dict[str, LinearResponse]:
        """Bootstrap replicates of the linear models that were resampled, read when they are asked for.

        Raises:
            UserError: a file is broken.
        """
        paths = {name: self.folder / f"{name}{SUFFIX}" for name in self.specs}
        return {name: LinearResponse.read(path) for name, path in paths.items() if path.is_file()}

    def replicates(self, names: Sequence[str], columns_NF: np.ndarray) -> dict[str, np.ndarray] | None:
        """Log-odds of some objectives by every replicate, float64 (B, N) each; None where one was not resampled.

        Args:
            names: of objectives; those that they are divided by are read too.
            columns_NF: as of `log_odds`.
        """
        needed = dict.fromkeys(other for name in names for other in (*self.before(name), name))
        if not all(name in self.responses for name in needed):
            return None
        own = {}
        for name in needed:
            model = self.models[name]
            assert isinstance(model, LinearModel), "linear models alone are resampled"
            own[name] = self.responses[name].moved(model, self.own_columns(name, columns_NF))
        size = min(len(values) for values in own.values())
        specs = {name: self.specs[name] for name in needed}
        joined_BNP = np.stack([join_chains(specs, {n: v[b] for n, v in own.items()}) for b in range(size)])
        return {name: joined_BNP[:, :, number].astype(np.float64) for number, name in enumerate(specs)}

    def before(self, name: str) -> list[str]:
        """The objectives that the model of one is divided by."""
        return self.specs[name].before if name in self.specs else []

    def own_columns(self, name: str, columns_NF: np.ndarray) -> np.ndarray:
        """What the prior of one objective reads, of all `columns`."""
        return columns_NF[:, [self.columns.index(column) for column in self.specs[name].columns]]

    def log_odds(self, columns_NF: np.ndarray) -> np.ndarray:
        """Log-odds of every objective, float32 (N, priors).

        Args:
            columns_NF: raw values, float (N, F) in the order of `columns`; categories as the index of their text, NaN
                where unknown.
        """
        models = {name: self._own(name, columns_NF) for name in self.specs}
        return join_chains(self.specs, models)

    def _own(self, name: str, columns_NF: np.ndarray) -> np.ndarray:
        """Log-odds of one model, float64 (N,); of a chain those of the whole chain."""
        own_NF = self.own_columns(name, columns_NF)
        if self.specs[name].method == "column":
            return from_column(own_NF[:, 0], self.specs[name].scale)
        found_N = log_odds(self.models[name], own_NF)
        if name in self.fallbacks:
            fall_back(self.specs[name], self.fallbacks[name], found_N, own_NF)
        return found_N


def fall_back(
    spec: PriorSpec, fallback: "Booster | LinearModel | Blend", found_N: np.ndarray, own_NF: np.ndarray
) -> np.ndarray:
    """Put the fallback's log-odds in the place of a model's where nothing is known of the shopper; says where, (N,)."""
    untold_N = spec.untold(own_NF)
    found_N[untold_N] = log_odds(fallback, spec.of_fallback(own_NF[untold_N]))
    return untold_N


def from_column(values_N: np.ndarray, scale: str) -> np.ndarray:
    """Log-odds of a column of scores, float64 (N,); 0 where it is unknown."""
    values_N = np.asarray(values_N, np.float64)
    if scale == "probability":
        clipped = np.clip(values_N, 1e-6, 1 - 1e-6)
        values_N = np.log(clipped) - np.log1p(-clipped)
    return np.nan_to_num(values_N, nan=0.0)


def join_chains(specs: Mapping[str, PriorSpec], own: Mapping[str, np.ndarray]) -> np.ndarray:
    """From each model's log-odds to those of its objective, float32 (N, priors).

    P(conversion | click) = P(click and conversion) / P(click): the model of a chain is divided by those before it.
    """
    found: dict[str, np.ndarray] = {}
    for name, spec in specs.items():
        logit_N = np.clip(own[name], -FARTHEST, FARTHEST)
        if spec.before:
            log_before_N = sum(-np.logaddexp(0.0, -found[other]) for other in spec.before)
            log_share_N = np.minimum(-np.logaddexp(0.0, -logit_N) - log_before_N, np.log(LARGEST_SHARE))
            logit_N = np.clip(log_share_N - np.log1p(-np.exp(log_share_N)), -FARTHEST, FARTHEST)
        found[name] = logit_N
    return np.stack([found[name] for name in specs], axis=1).astype(np.float32)


def chain_labels(labels: Sequence[np.ndarray]) -> np.ndarray:
    """The label of a whole chain, float32 (N,): 1 where all of them are; a missing one was not observed, so 0."""
    return np.prod([np.nan_to_num(np.asarray(label, np.float32)) for label in labels], axis=0)

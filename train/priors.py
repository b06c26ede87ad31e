"""The priors of a prepared folder, and the log-odds that they give its training rows.

They lie in PREPARED/priors/KEY, which a single process makes: priors.json and NAME.txt (`equipoise.modeling.priors`),
train.npy with the log-odds of the training rows, float32 (I, priors), and, where training shows some rows as of
anonymous users, masked.npy with those of the same rows as they are shown then.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from equipoise.common.atomic import atomic_dir
from equipoise.common.errors import UserError
from equipoise.common.progress import ProgressBar
from equipoise.common.sealed import seal
from equipoise.configs.schema import RunConfig
from equipoise.data.manifest import Manifest
from equipoise.data.prepare.masked import anonymous_data
from equipoise.data.token_cache import TokenCache
from equipoise.modeling.priors import FILE, Priors
from equipoise.modeling.simple_models import TRIED
from equipoise.train.prior_columns import logit_columns
from equipoise.train.prior_fit import MASKED, SEED, TRAIN, PriorFit, prior_configs
from equipoise.train.thing_vectors import ThingVectors

FOLDER = "priors"


@dataclass(frozen=True)
class PriorStore:
    """The priors of a configuration and the log-odds of its training rows.

    Attributes:
        folder: PREPARED/priors/KEY.
    """

    folder: Path

    @cached_property
    def priors(self) -> Priors:
        """The models."""
        return Priors.read(self.folder)

    def training_rows(self, masked: bool = False) -> np.ndarray:
        """Out-of-fold log-odds of the train split, float32 (I, priors), mapped.

        Raises:
            UserError: the file is missing.
        """
        path = self.folder / (MASKED if masked else TRAIN)
        try:
            return np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is missing or broken: delete {self.folder} and prepare again") from error


def find_priors(config: RunConfig, tokens: TokenCache, vectors: ThingVectors | None = None) -> PriorStore | None:
    """The priors of a job, before its processes meet; a single process fits those that are missing; None without any.

    Args:
        config: of the run.
        tokens: of its prepared folder.
        vectors: of its things; None where nothing is compared.

    Raises:
        UserError: they are missing and the job has several processes, or what they read is.
    """
    if not prior_configs(config):
        return None
    store = PriorStore(config.data.folder / FOLDER / _key(config, vectors))
    if (store.folder / FILE).is_file():
        return store
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"{config.data.folder} holds no priors for these objectives: run `equipoise tokenize CONFIG` with the same "
            "settings, then launch again"
        )
    with atomic_dir(store.folder) as building, ProgressBar("fitting priors") as bar:
        PriorFit(config, tokens, building, vectors).write(bar)
        seal(building)
    return store


def _key(config: RunConfig, vectors: ThingVectors | None) -> str:
    """What determines the priors: equal keys, equal priors."""
    manifest = Manifest.read(config.data.folder)
    configs = {name: prior.identity() for name, prior in prior_configs(config).items()}
    labels = {name: config.objectives.specs()[name].label for name in configs}
    compared = vectors.folder.name if vectors is not None else None
    described = [configs, labels, manifest.hashes, list(manifest.features), config.train.feature_dropout, SEED]
    described += [compared, TRIED]
    if any(prior.method in ("linear", "best") for prior in prior_configs(config).values()):
        described.append(logit_columns(manifest, list(manifest.features)))
    if any(prior.fallback for prior in prior_configs(config).values()):
        described.append(sorted(config.data.behaviour))
    if manifest.comparison is not None and "rivals" in manifest.comparison:
        described.append(manifest.comparison["rivals"])
    if config.train.feature_dropout:
        masked = Manifest.read(anonymous_data(config.data).folder)
        described += [masked.hashes, masked.untold]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]

"""The priors of a prepared folder, and the log-odds that they give its training rows.

They lie in PREPARED/priors/KEY, which a single process makes: priors.json and NAME.txt (`equipoise.modeling.priors`),
train.npy with the log-odds of the training rows, float32 (I, priors), and, where training shows some rows as of
anonymous users, masked.npy with those of the same rows as they are shown then.
"""

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from equipoise.common.atomic import atomic_dir
from equipoise.common.errors import UserError
from equipoise.common.hashing import file_hash
from equipoise.common.progress import ProgressBar
from equipoise.common.sealed import seal
from equipoise.configs.load import read_run_config
from equipoise.configs.schema import RunConfig
from equipoise.data.manifest import FILE_NAME as MANIFEST
from equipoise.data.manifest import Manifest
from equipoise.data.prepare.masked import anonymous_data
from equipoise.data.token_cache import TokenCache
from equipoise.modeling.priors import FILE, Priors
from equipoise.modeling.simple_models import SHARES, TRIED, WHOLE
from equipoise.train.kept_priors import Fitted, known_log_odds
from equipoise.train.prior_columns import logit_columns, read_columns, split_columns
from equipoise.train.prior_fit import MASKED, SEED, TRAIN, PriorFit, prior_configs
from equipoise.train.start_record import read_start
from equipoise.train.thing_vectors import ThingVectors, find_vectors
from equipoise.train.token_caches import find_tokens

log = logging.getLogger(__name__)

FOLDER = "priors"
ORIGIN = "origin.json"
"""Of priors that were kept: where they were fitted."""


@dataclass(frozen=True)
class PriorStore:
    """The priors of a configuration and the log-odds of its training rows.

    Attributes:
        folder: PREPARED/priors/KEY.
    """

    folder: Path

    @cached_property
    def origin(self) -> dict[str, str] | None:
        """Of priors that were kept from an earlier run: the prepared folder and the store where they were fitted."""
        path = self.folder / ORIGIN
        return json.loads(path.read_text("utf-8")) if path.is_file() else None

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
    if config.train.start_from is not None and config.train.start_prior == "keep":
        return kept_priors(config, tokens, vectors)
    store = PriorStore(config.data.folder / FOLDER / _key(config, vectors))
    if (store.folder / FILE).is_file():
        return store
    _refuse_many_processes(config)
    with atomic_dir(store.folder) as building, ProgressBar("fitting priors") as bar:
        PriorFit(config, tokens, building, vectors).write(bar)
        seal(building)
    return store


def kept_priors(config: RunConfig, tokens: TokenCache, vectors: ThingVectors | None) -> PriorStore:
    """The priors of the run that training starts from, and what they say of the rows of these data.

    Raises:
        UserError: that run has others, or its prepared folder is gone.
    """
    run = config.train.start_from
    assert run is not None, "the run starts from another"
    priors, earlier = Priors.read(run / FOLDER), read_run_config(run)
    asked, had = ({name: prior.identity() for name, prior in prior_configs(each).items()} for each in (config, earlier))
    if asked != had or list(priors.names) != list(asked):
        raise UserError(
            f"train.start_prior: {run} has other priors than this run asks for: set them as there, or "
            "train.start_prior=refit"
        )
    fitted = _fitted(run, earlier)
    manifest = Manifest.read(config.data.folder)
    masked = anonymous_data(config.data) if config.train.feature_dropout else None
    described = [priors.record(), _files(priors), manifest.hashes, vectors.folder.name if vectors else None]
    described += [fitted.to_json(), Manifest.read(masked.folder).hashes if masked else None]
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
    store = PriorStore(config.data.folder / FOLDER / f"kept-{key}")
    if (store.folder / FILE).is_file():
        return store
    _refuse_many_processes(config)
    shown = {TRAIN: config} | ({MASKED: config.model_copy(update={"data": masked})} if masked else {})
    with atomic_dir(store.folder) as building:
        priors.write(building)
        for file, each in shown.items():
            own = tokens if file == TRAIN else find_tokens(each)
            columns = split_columns(Manifest.read(each.data.folder), own, "train", vectors)
            found = priors.log_odds(read_columns(columns, priors.columns))
            known = known_log_odds(found, config.data.folder, fitted, file)
            np.save(building / file, found)
        log.info(
            f"priors are those of {run}: {known:,} of {len(found):,} training rows have the log-odds out of fold that "
            "they had where the priors were fitted"
        )
        (building / ORIGIN).write_text(json.dumps(fitted.to_json()) + "\n", "utf-8")
        seal(building)
    return store


def _fitted(run: Path, earlier: RunConfig) -> Fitted:
    """The rows that the priors of a run were fitted on; those of a run before it, where it kept them."""
    start = read_start(run)
    if start is not None and start.get("prior_origin"):
        return Fitted(Path(start["prior_origin"]["data"]), Path(start["prior_origin"]["store"]))
    folder = earlier.data.folder
    if not (folder / MANIFEST).is_file():
        raise UserError(
            f"{folder}, on whose rows the priors of {run} were fitted, is gone: restore it, or set "
            "train.start_prior=refit"
        )
    vectors = find_vectors(earlier) if earlier.data.comparison is not None else None
    return Fitted(folder, folder / FOLDER / _key(earlier, vectors))


def _files(priors: Priors) -> dict[str, str]:
    return {path.name: file_hash(path) for path in sorted(priors.folder.glob("*.txt"))}


def _refuse_many_processes(config: RunConfig) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"{config.data.folder} holds no priors for these objectives: run `equipoise tokenize CONFIG` with the same "
            "settings, then launch again"
        )


def _key(config: RunConfig, vectors: ThingVectors | None) -> str:
    """What determines the priors: equal keys, equal priors."""
    manifest = Manifest.read(config.data.folder)
    configs = {name: prior.identity() for name, prior in prior_configs(config).items()}
    labels = {name: config.objectives.specs()[name].label for name in configs}
    compared = vectors.folder.name if vectors is not None else None
    described = [configs, labels, manifest.hashes, list(manifest.features), config.train.feature_dropout, SEED]
    described += [compared, TRIED]
    if any(prior.method in ("linear", "best", "blend") for prior in prior_configs(config).values()):
        described.append(logit_columns(manifest, list(manifest.features)))
    if any(prior.method == "blend" for prior in prior_configs(config).values()):
        described += [SHARES.tolist(), WHOLE]
    if any(prior.fallback for prior in prior_configs(config).values()):
        described.append(sorted(config.data.behaviour))
    if manifest.comparison is not None and "rivals" in manifest.comparison:
        described.append(manifest.comparison["rivals"])
    if config.train.feature_dropout:
        masked = Manifest.read(anonymous_data(config.data).folder)
        described += [masked.hashes, masked.untold]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]

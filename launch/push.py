"""equipoise push: an export that is whole goes to a repository of the Hugging Face Hub, in one commit."""

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HFValidationError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from equipoise.common.errors import UserError, format_error
from equipoise.common.sealed import SEAL
from equipoise.common.token import read_token
from equipoise.export.files import open_record, whole_files
from equipoise.export.serving_record import BASE_FOLDER, FILE_NAME

log = logging.getLogger(__name__)

MAIN = "main"
NEUTRAL = {".gitattributes", "README.md", "LICENSE"}
"""Files that a repository may hold before its first export."""


def push_export(
    folder: Path, repo: str, private: bool = False, revision: str | None = None, token_env: str | None = None
) -> str:
    """Write all files of an export into a repository, which is made where there is none; returns the commit's address.

    Files of an earlier export that this one has no more are removed by the same commit. HF_ENDPOINT names another
    server than huggingface.co.

    Args:
        folder: what `equipoise export` wrote.
        repo: OWNER/NAME.
        private: refuse a repository that others can read, and make a new one private.
        revision: branch, which is made where there is none; None: main.
        token_env: environment variable that holds the token; None: HF_TOKEN, or what `hf auth login` keeps.

    Raises:
        UserError: the export is damaged, the name is none, there is no token, the repository holds something else or is
            public, or the server cannot be reached or refuses.
    """
    record = open_record(folder)
    names = whole_files(folder, record)
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"'{repo}' is no name of a repository ({error}): give OWNER/NAME") from error
    token = read_token(token_env, None) or get_token()
    if token is None:
        raise UserError("no token of the Hugging Face Hub: run `hf auth login`, set HF_TOKEN, or name --token-env")
    _note_what_stays(folder, record, names)
    with _said(repo):
        api = HfApi(token=token)
        repo = api.create_repo(repo, private=private or None, exist_ok=True).repo_id
        if revision not in (None, MAIN):
            api.create_branch(repo, branch=str(revision), exist_ok=True)
        there = api.model_info(repo, revision=revision)
        if private and not there.private:
            raise UserError(f"{repo} can be read by others: make it private on the Hub, or push without --private")
        stale = _stale(api, repo, revision, [each.rfilename for each in there.siblings or []], names)
        commit = api.create_commit(
            repo,
            [
                *(CommitOperationAdd(name, folder / name) for name in names),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message=f"Export of {record['run']}",
            revision=revision,
            parent_commit=there.sha,
        )
    size = sum((folder / name).stat().st_size for name in names) / 2**20
    log.info(f"pushed {len(names)} files ({size:.1f} MiB) to {commit.commit_url}")
    name = next(iter(record["objectives"]))
    log.info(f'load an adapter: PeftModel.from_pretrained(base, "{repo}", subfolder="{name}")')
    return commit.commit_url


def _note_what_stays(folder: Path, record: dict[str, Any], names: list[str]) -> None:
    """Say which files are not the export's, and where its base is to come from."""
    pushed = {folder / name for name in names}
    others = (path for path in sorted(folder.rglob("*")) if path.is_file() and path not in pushed)
    shown = [path.relative_to(folder).as_posix() for path in others if not path.name.startswith(".")]
    if shown:
        log.info(f"note: not of the export, so not pushed: {', '.join(shown[:5])}{' …' if len(shown) > 5 else ''}")
    base = record["base"]
    if base["relative"] is not None and not base["inside_export"]:
        log.info(
            f"note: the base is not pushed, it is {base['path']} of this machine: elsewhere, name its place with "
            "--base; its hashes are compared"
        )


def _stale(api: HfApi, repo: str, revision: str | None, there: list[str], names: list[str]) -> list[str]:
    """The files of an earlier export in the repository that this one has no more.

    Raises:
        UserError: the repository holds something else than an export.
    """
    others = [name for name in there if name not in NEUTRAL]
    if not others:
        return []
    if FILE_NAME not in others:
        raise UserError(f"{repo} holds something else than an export ({others[0]}): name another repository")
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = api.hf_hub_download(repo, FILE_NAME, revision=revision, local_dir=folder)
            before = json.loads(Path(found).read_text("utf-8"))["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{repo} holds a damaged export ({FILE_NAME}): name another repository") from error
    sealed = [name.removesuffix(SEAL) for name in others if name.endswith(f"/{SEAL}")]
    folders = (f"{BASE_FOLDER}/", *sealed)
    return sorted(name for name in others if name not in names and (name in before or name.startswith(folders)))


@contextmanager
def _said(repo: str) -> Iterator[None]:
    """Turn what the Hub or the way to it refuses into a sentence.

    Raises:
        UserError: says what was answered.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
            yield
    except UserError:
        raise
    except OfflineModeIsEnabled as error:
        raise UserError(f"{repo} was not pushed: HF_HUB_OFFLINE is set, unset it to reach the Hub") from error
    except (HTTPError, OSError, ValueError) as error:
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        way_out = {401: "the token is not accepted", 403: "the token may not write there", 404: "it is not there"}
        reason = way_out.get(status or 0, format_error(error)[:300])
        raise UserError(f"{repo} was not pushed ({reason}): correct that, and push again") from error

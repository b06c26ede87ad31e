"""A copy of a prepared folder on any file system of fsspec (s3://, gs://, abfs://, hdfs://, …), for many machines.

`URL/objects/` holds the files under their sha256 and `URL/index.json` says which file of the folder each is. The index
is written last and objects never change, so whoever reads while another writes gets one state or the other, whole.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from equipoise.common.digest import is_as_written, with_digest
from equipoise.common.errors import UserError
from equipoise.common.file_lock import Held, hold
from equipoise.common.hashing import file_hash
from equipoise.common.progress import ProgressBar
from equipoise.configs.schema import DataConfig
from equipoise.data.manifest import FILE_NAME as MANIFEST
from equipoise.data.manifest import Manifest
from equipoise.data.prepare.remote import open_system, short

log = logging.getLogger(__name__)

FORMAT = 1
INDEX, OBJECTS = "index.json", "objects"
AGAIN = "delete what is there of it, and run `equipoise upload CONFIG` where the prepared folder is"
TRANSFERS = 8
"""Files that are copied at once."""
WAIT_SECONDS = 0.5
_UNFINISHED = (".parts", ".lock", ".partial")


@dataclass(frozen=True)
class Copied:
    """What was copied: files, and their bytes."""

    files: int
    size: int


@dataclass(frozen=True)
class _File:
    size: int
    sha256: str


class RemoteCopy:
    """A prepared folder's copy under a URL.

    Args:
        url: PROTOCOL://…

    Raises:
        UserError: the package that opens such URLs is missing.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.system: Any = open_system(self.url, "data.remote")

    def files(self) -> dict[str, _File] | None:
        """The files of the copy by their place in the folder; None where there is no copy.

        Raises:
            UserError: the place cannot be reached, or its index is damaged.
        """
        try:
            content = self.system.cat_file(f"{self.url}/{INDEX}")
        except FileNotFoundError:
            return None
        except Exception as error:  # each file system raises its own kinds
            raise self._unreachable(error) from error
        try:
            record = json.loads(content)
            if record["format"] == FORMAT and is_as_written(record) and all(map(_inside, record["files"])):
                return {name: _File(**each) for name, each in record["files"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise UserError(f"{self.url}/{INDEX} is no index of prepared data: upload them again, or name another place")

    def upload(self, folder: Path, prune: bool = False) -> Copied:
        """Copy what the place lacks of a prepared folder, and then say what there is.

        Args:
            folder: that `prepare` wrote.
            prune: delete files of earlier states afterwards; whoever is reading one of those then fails.

        Raises:
            UserError: the folder is not prepared or damaged, or the place cannot be reached.
        """
        Manifest.read(folder, verify=True)
        found = {
            path.relative_to(folder).as_posix(): _File(path.stat().st_size, file_hash(path))
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not _is_unfinished(path.relative_to(folder))
        }
        there = self._objects()
        new = {
            each.sha256: (folder / name, each.size)
            for name, each in found.items()
            if there.get(each.sha256, ("", -1))[1] != each.size
        }
        self._copy("uploading", ((name, path, size) for name, (path, size) in new.items()), self._put)
        index = with_digest({"format": FORMAT, "files": {name: vars(each) for name, each in found.items()}})
        try:
            self.system.pipe_file(f"{self.url}/{INDEX}", json.dumps(index, indent=1).encode())
            if prune:
                for sha256 in there.keys() - {each.sha256 for each in found.values()}:
                    self.system.rm_file(there[sha256][0])
        except Exception as error:  # as above
            raise self._unreachable(error) from error
        return Copied(len(new), sum(size for _, size in new.values()))

    def download(self, folder: Path) -> Copied:
        """Copy what a folder of this machine lacks; a new one appears when it is whole.

        Processes that do this at once wait for the first of them; a killed one leaves its whole files to the next.

        Raises:
            UserError: there is no copy, the folder holds other data, a file is damaged, or the place cannot be reached.
        """
        files = self.files()
        if files is None:
            raise UserError(
                f"data.remote {self.url} holds no prepared data: run `equipoise prepare CONFIG` with the same "
                "data.remote where the tables are"
            )
        if (folder / MANIFEST).is_file() and file_hash(folder / MANIFEST) != files[MANIFEST].sha256:
            raise UserError(
                f"{folder} holds other prepared data than {self.url}: name another data.folder, delete it to take "
                "those, or run `equipoise upload CONFIG` to put these in their place"
            )
        if not (folder / MANIFEST).is_file() and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"data.folder {folder} holds something else than prepared data: name another folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                with hold(folder.with_name(f".{folder.name}.download.lock")):
                    return self._download(folder, files)
            except Held:
                time.sleep(WAIT_SECONDS)

    def _download(self, folder: Path, files: dict[str, _File]) -> Copied:
        whole = (folder / MANIFEST).is_file()
        into = folder if whole else folder.with_name(f".{folder.name}.download")
        missing = {
            name: each
            for name, each in files.items()
            if not (into / name).is_file() or (into / name).stat().st_size != each.size
        }
        self._copy("downloading", ((each.sha256, into / name, each.size) for name, each in missing.items()), self._get)
        if not whole:
            into.rename(folder)  # over an empty one
        return Copied(len(missing), sum(each.size for each in missing.values()))

    def _copy(self, title: str, every: Iterable[tuple[str, Path, int]], copy: Callable[[str, Path], None]) -> None:
        """Copy some at once; the first failure ends it."""
        wanted = list(every)
        if not wanted:
            return
        total, done = max(sum(size for _, _, size in wanted), 1), 0
        with ProgressBar(title) as bar, ThreadPoolExecutor(TRANSFERS) as pool:
            jobs = [(pool.submit(copy, sha256, path), size) for sha256, path, size in wanted]
            try:
                for job, size in jobs:
                    job.result()
                    done += size
                    bar.stage(title, done / total)
            except UserError:
                raise
            except Exception as error:  # as above
                raise self._unreachable(error) from error
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _objects(self) -> dict[str, tuple[str, int]]:
        """sha256 → place and size of what is there, also of uploads that were stopped."""
        try:
            self.system.invalidate_cache()
            listed = self.system.find(f"{self.url}/{OBJECTS}", detail=True)
        except FileNotFoundError:
            return {}
        except Exception as error:  # as above
            raise self._unreachable(error) from error
        return {place.rsplit("/", 1)[-1]: (place, about["size"]) for place, about in listed.items()}

    def _put(self, sha256: str, path: Path) -> None:
        place = self._object(sha256)
        self.system.makedirs(place.rsplit("/", 1)[0], exist_ok=True)
        self.system.put_file(str(path), place)

    def _get(self, sha256: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        try:
            self.system.get_file(self._object(sha256), str(partial))
            if file_hash(partial) != sha256:
                raise UserError(f"{self._object(sha256)} ({path.name}) is damaged: {AGAIN}")
            partial.replace(path)
        except FileNotFoundError as error:
            raise UserError(f"{self._object(sha256)} ({path.name}) is missing: {AGAIN}") from error
        finally:
            partial.unlink(missing_ok=True)

    def _object(self, sha256: str) -> str:
        return f"{self.url}/{OBJECTS}/{sha256[:2]}/{sha256}"

    def _unreachable(self, error: Exception) -> UserError:
        return UserError(
            f"data.remote {self.url} cannot be used ({short(error)}): correct it, or log in to where it is"
        )


def bring(data: DataConfig) -> None:
    """Download the prepared folder of a configuration where this machine lacks it, and the configuration says whence.

    Raises:
        UserError: as for `RemoteCopy.download`.
    """
    if data.remote is None or (data.folder / MANIFEST).is_file():
        return
    copied = RemoteCopy(data.remote).download(data.folder)
    if copied.files:
        log.info(f"downloaded {data.folder} from {data.remote}: {told(copied)}")


def told(copied: Copied) -> str:
    """What was copied, in words."""
    return f"{copied.files:,} files, {copied.size / 1e6:,.1f} MB"


def _is_unfinished(path: Path) -> bool:
    return any(part.startswith(".") or part.endswith(_UNFINISHED) or ".tmp-" in part for part in path.parts)


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and name == path.as_posix() and name != "."

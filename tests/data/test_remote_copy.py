"""A prepared folder on another file system: the same files come back, whole or not at all; what is new is copied."""

import json
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from equipoise.common.errors import UserError
from equipoise.data.manifest import Manifest
from equipoise.data.remote_copy import RemoteCopy

Prepared = Callable[..., Path]


@pytest.fixture(params=["memory://bucket/shop", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place that is empty."""
    fsspec.filesystem("memory").store.clear()
    return f"file://{tmp_path}/bucket/shop/" if request.param == "file" else request.param


@pytest.fixture
def prepared(make_prepared: Prepared) -> Path:
    """A prepared folder with what jobs leave in it."""
    folder = make_prepared()
    (folder / "tokens" / "key").mkdir(parents=True)
    (folder / "tokens" / "key" / "cache.json").write_text("{}")
    (folder / "tokens" / "other.parts" / "items-00000").mkdir(parents=True)
    (folder / "tokens" / "other.parts" / "items-00000" / "part.json").write_text("{}")
    (folder / ".verified.json").write_text("{}")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that is not hidden, by its place."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(".")}


def test_the_same_files_come_back(url: str, prepared: Path, tmp_path: Path) -> None:
    copy, here = RemoteCopy(url), tmp_path / "other machine" / "prepared"
    assert copy.files() is None
    copied = copy.upload(prepared)
    expected = {name: each for name, each in contents(prepared).items() if ".parts" not in name}
    assert copied.files == len(set(expected.values())) and copied.size > 0
    brought = RemoteCopy(url).download(here)
    assert contents(here) == expected and brought.files == len(expected)
    Manifest.read(here, verify=True)
    assert [path.name for path in here.parent.iterdir() if path.is_dir()] == ["prepared"]
    assert copy.upload(prepared).files == 0 and copy.download(here).files == 0


def test_what_is_new_alone_is_copied(url: str, prepared: Path, tmp_path: Path) -> None:
    copy, here = RemoteCopy(url), tmp_path / "here"
    copy.upload(prepared)
    copy.download(here)
    (prepared / "priors").mkdir()
    (prepared / "priors" / "trees.txt").write_text("tree")
    assert copy.upload(prepared).files == 1
    assert copy.download(here).files == 1 and (here / "priors" / "trees.txt").read_text() == "tree"


def test_files_of_earlier_states_are_deleted_when_asked(url: str, prepared: Path) -> None:
    copy = RemoteCopy(url)
    copy.upload(prepared)
    objects = copy.system.find(f"{copy.url}/objects")
    (prepared / "tokens" / "key" / "cache.json").write_text('{"other": 1}')
    copy.upload(prepared)
    assert len(copy.system.find(f"{copy.url}/objects")) == len(objects) + 1
    copy.upload(prepared, prune=True)
    assert len(copy.system.find(f"{copy.url}/objects")) == len(objects)
    copy.download(prepared.with_name("again"))


def test_a_download_that_was_stopped_goes_on(
    url: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, here = RemoteCopy(url), tmp_path / "here"
    copy.upload(prepared)
    healthy, got = RemoteCopy._get, []

    def fail_later(self: RemoteCopy, sha256: str, path: Path) -> None:
        if len(got) == 3:
            raise OSError("connection reset")
        got.append(path.name)
        healthy(self, sha256, path)

    monkeypatch.setattr("equipoise.data.remote_copy.TRANSFERS", 1)
    monkeypatch.setattr(RemoteCopy, "_get", fail_later)
    with pytest.raises(UserError, match=r"cannot be used \(connection reset\)"):
        copy.download(here)
    assert not here.exists()
    monkeypatch.setattr(RemoteCopy, "_get", healthy)
    assert copy.download(here).files == len(copy.files() or {}) - 3
    Manifest.read(here, verify=True)


@pytest.mark.parametrize("damage", ["flipped", "missing", "index", "escapes"])
def test_a_damaged_copy_is_one_sentence(damage: str, prepared: Path, tmp_path: Path) -> None:
    place, here = tmp_path / "bucket", tmp_path / "here"
    copy = RemoteCopy(f"file://{place}")
    copy.upload(prepared)
    one = next(path for path in sorted((place / "objects").rglob("*")) if path.is_file() and path.stat().st_size > 9)
    if damage == "flipped":
        one.write_bytes(one.read_bytes()[:-1] + b"?")
    elif damage == "missing":
        one.unlink()
    elif damage == "index":
        (place / "index.json").write_text((place / "index.json").read_text().replace("items.parquet", "item.parquet"))
    else:
        (place / "index.json").write_text(json.dumps({"format": 1, "files": {"../x": {"size": 1, "sha256": "0"}}}))
    with pytest.raises(UserError, match=r"is damaged: delete|is missing: delete|is no index of prepared data"):
        copy.download(here)
    assert not here.exists() and not (tmp_path / "x").exists()
    if damage == "flipped":
        one.unlink()
    copy.upload(prepared)  # the way out
    copy.download(here)
    Manifest.read(here, verify=True)


def test_other_data_are_not_mixed(url: str, make_prepared: Prepared, prepared: Path, tmp_path: Path) -> None:
    copy = RemoteCopy(url)
    copy.upload(prepared)
    other = make_prepared(1)
    before = contents(other)
    with pytest.raises(UserError, match="holds other prepared data than"):
        copy.download(other)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else than prepared data"):
        copy.download(foreign)
    assert contents(other) == before and contents(foreign) == {"thesis.txt": b"mine"}
    (tmp_path / "empty").mkdir()
    copy.download(tmp_path / "empty")  # as a container mounts it


def test_places_that_cannot_be_used_are_named(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.remote nosuch://x is no path of this machine"):
        RemoteCopy("nosuch://x")
    with pytest.raises(UserError, match="holds no prepared data: run `equipoise prepare CONFIG` with the same"):
        RemoteCopy(f"file://{tmp_path}/nothing").download(tmp_path / "here")
    shard = next((prepared / "slates").iterdir())
    shard.write_bytes(shard.read_bytes()[:-3])
    with pytest.raises(UserError, match="does not match its hash"):
        RemoteCopy(f"file://{tmp_path}/bucket").upload(prepared)
    assert not (tmp_path / "bucket").exists()


def _download(url: str, folder: Path, told: Any) -> None:
    told.put(RemoteCopy(url).download(folder).files)


@pytest.mark.timeout(300)
def test_processes_of_a_machine_download_once(prepared: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/bucket"
    files = RemoteCopy(url).upload(prepared) and len(RemoteCopy(url).files() or {})
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    jobs = [context.Process(target=_download, args=(url, tmp_path / "here", told)) for _ in range(2)]
    for job in jobs:
        job.start()
    assert sorted(told.get(timeout=240) for _ in jobs) == [0, files]
    for job in jobs:
        job.join()
    shutil.rmtree(tmp_path / "here")

"""Files of checkpoints, exports and prepared data are damaged one by one, and what reads them has to say so."""

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.soak_work import SAVE_EVERY, STEPS, Said, Work, command

FLIPPED = 16


def _zeroed(content: bytearray, other: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(max(len(content) // 2, 1))
    size = max(len(content) // 4, 1)
    content[start : start + size] = bytes(len(content[start : start + size]))
    return bytes(content)


def _flipped(content: bytearray, other: bytes, draw: random.Random) -> bytes:
    for _ in range(min(FLIPPED, len(content))):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(content)


def _truncated(content: bytearray, other: bytes, draw: random.Random) -> bytes:
    return bytes(content[: len(content) * 2 // 3])


def _exchanged(content: bytearray, other: bytes, draw: random.Random) -> bytes:
    return other


WAYS: dict[str, Callable[[bytearray, bytes, random.Random], bytes]] = {
    "zeroed": _zeroed,
    "flipped": _flipped,
    "truncated": _truncated,
    "exchanged": _exchanged,
}


@dataclass(frozen=True)
class Tried:
    """One damaged file: where, how, and what the command made of it."""

    kind: str
    file: str
    way: str
    said: Said

    @property
    def accepted(self) -> bool:
        """Whether the command went on and named no file that it passed over."""
        return self.said.code == 0 and Path(self.file).name not in self.said.printed

    def __str__(self) -> str:
        return f"{self.kind}/{self.file} {self.way}: exit {self.said.code}: {self.said.printed[-160:]}"


def damaged(folder: Path, ways: tuple[str, ...], draw: random.Random) -> Iterator[tuple[str, str]]:
    """Damage each file of a folder in each way, for as long as its turn lasts: (file, way)."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    for number, file in enumerate(files):
        whole = file.read_bytes()
        like = [other for other in files if other != file and other.suffix == file.suffix] or [files[number - 1]]
        for way in ways:
            content = WAYS[way](bytearray(whole), like[0].read_bytes(), draw)
            if content == whole:
                continue
            file.write_bytes(content)
            yield file.relative_to(folder).as_posix(), way
            file.write_bytes(whole)


def try_checkpoints(work: Work, ways: tuple[str, ...], draw: random.Random) -> Iterator[Tried]:
    """The last of three checkpoints is damaged; `train --resume` has to say so and go on from the one before."""
    copy = work.folder / "damaged-run"
    shutil.copytree(work.run, copy)
    shutil.rmtree(copy / "checkpoints" / f"step-{STEPS:06d}")
    kept = work.folder / "kept-run"
    shutil.copytree(copy, kept)
    last = copy / "checkpoints" / f"step-{STEPS - SAVE_EVERY:06d}"
    for file, way in damaged(last, ways, draw):
        said = command(["train", str(work.config), f"output={copy}", "--resume"])
        yield Tried("checkpoint", file, way, said)
        content = (last / file).read_bytes() if (last / file).exists() else b""
        shutil.rmtree(copy)
        shutil.copytree(kept, copy)
        (last / file).write_bytes(content)
    shutil.rmtree(copy)
    shutil.rmtree(kept)


def try_export(work: Work, ways: tuple[str, ...], draw: random.Random) -> Iterator[Tried]:
    """`Recommender.load` and one ranking, and where that takes it, the check of all files that `equipoise push` makes.

    README.md is left out: it is for people, who may change it.
    """
    copy = work.folder / "damaged-export"
    shutil.copytree(work.export, copy)
    for file, way in damaged(copy, ways, draw):
        if file == "README.md":
            continue
        tried = Tried("export", file, way, command(["load-export", str(copy)]))
        yield Tried("export", file, way, command(["whole-export", str(copy)])) if tried.accepted else tried
    shutil.rmtree(copy)


def try_prepared(work: Work, ways: tuple[str, ...], draw: random.Random) -> Iterator[Tried]:
    """Two steps of training, and where that takes it, `evaluate` of the finished run."""
    copy, output = work.folder / "damaged-prepared", work.folder / "damaged-training"
    shutil.copytree(work.prepared, copy)
    for file, way in damaged(copy, ways, draw):
        kind = "token cache" if file.startswith("tokens/") else "prepared"
        changes = [f"data.folder={copy}", "train.max_steps=2", "train.save_every=null"]
        said = command(["train", str(work.config), f"output={output}", *changes])
        shutil.rmtree(output, ignore_errors=True)
        tried = Tried(kind, file, way, said)
        if tried.accepted:
            tried = Tried(kind, file, way, command(["evaluate", str(work.run), f"data.folder={copy}"]))
        yield tried
    shutil.rmtree(copy)


def try_all(work: Work, quick: bool) -> list[Tried]:
    """All damages, in words on the terminal as they are tried; quick: one way for each kind of file."""
    draw, done = random.Random(17), []
    ways = ("flipped",) if quick else tuple(WAYS)
    for attack in (try_checkpoints, try_export, try_prepared):
        for tried in attack(work, ways, draw):
            done.append(tried)
            verdict = "ACCEPTED" if tried.accepted else "TRACEBACK" if tried.said.traceback else "refused"
            print(f"{verdict}: {tried}", flush=True)
    return done

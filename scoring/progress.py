"""What `equipoise score` shows: requests done by all processes and in earlier calls, and impressions per second."""

import time
from collections.abc import Sequence
from typing import Any

from equipoise.common.console import new_console
from equipoise.common.progress import ProgressBar
from equipoise.data.requests.files import Block
from equipoise.scoring.folder import ScoreFolder

LOOK_SECONDS = 1.0


class ScoreProgress:
    """Counts finished blocks by their parts, so that processes need not speak with each other.

    Args:
        blocks: of all processes.
        folder: where the parts appear.
        earlier: numbers of the blocks that were finished before this call.
        watching: whether this process counts what the others have done.
    """

    def __init__(self, blocks: Sequence[Block], folder: ScoreFolder, earlier: set[int], watching: bool) -> None:
        self.folder, self.watching = folder, watching
        self.sizes = {block.number: block.stop - block.start for block in blocks}
        self.earlier = earlier & set(self.sizes)
        self.impressions = {number: folder.impressions(number) for number in self.earlier} if watching else {}
        self.before = sum(self.impressions.values())
        self.done = set(self.earlier)
        self.open = (0, 0)  # requests and impressions of the block in work
        self.started = self.looked = time.monotonic()
        look: dict[str, Any] = {"console": new_console(), "transient": False, "disable": not watching}
        self.bar = ProgressBar(unit="requests", extra="{rate} impressions/s", **look)
        self.bar.add("scoring", sum(self.sizes.values()), rate="–")
        self.bar.update(self._requests())

    def __enter__(self) -> "ScoreProgress":
        self.bar.__enter__()
        return self

    def __exit__(self, *fault: object) -> None:
        self.bar.__exit__(*fault)

    def advance(self, requests: int, impressions: int) -> None:
        """This process scored some more of its block."""
        self.open = (self.open[0] + requests, self.open[1] + impressions)
        if time.monotonic() - self.looked > LOOK_SECONDS:
            self._look()
        self._show()

    def end_block(self) -> None:
        """This process wrote the part of its block."""
        self._look()
        self.open = (0, 0)
        self._show()

    def complete(self) -> bool:
        """Whether the parts of all blocks are there."""
        self._look()
        self._show()
        return len(self.done) == len(self.sizes)

    def closing_line(self) -> str:
        """What was done and how fast."""
        seconds = max(self._seconds(), 1e-9)
        new = self._impressions() - self.before
        requests = sum(self.sizes[number] for number in self.done - self.earlier)
        line = (
            f"scored {requests:,} requests, {new:,} impressions in {seconds:,.1f} s "
            f"({requests / seconds:,.1f} requests/s, {new / seconds:,.0f} impressions/s)"
        )
        if self.earlier:
            old = sum(self.sizes[number] for number in self.earlier)
            line += f", {old:,} requests and {self.before:,} impressions were there already"
        return f"{line}; scores: {self.folder.folder}"

    def _look(self) -> None:
        finished = self.folder.finished() & set(self.sizes)
        if self.watching:
            for number in finished - self.done:
                self.impressions[number] = self.folder.impressions(number)
        self.done = finished
        self.looked = time.monotonic()

    def _requests(self) -> int:
        return sum(self.sizes[number] for number in self.done) + self.open[0]

    def _impressions(self) -> int:
        return sum(self.impressions.values()) + self.open[1]

    def _seconds(self) -> float:
        return time.monotonic() - self.started

    def _show(self) -> None:
        rate = (self._impressions() - self.before) / max(self._seconds(), 1e-9)
        self.bar.update(self._requests(), rate=f"{rate:,.0f}")

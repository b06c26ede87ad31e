"""What a worker runs in a test; a file of its own, since each of its processes imports it."""

import time
from multiprocessing.connection import Connection
from pathlib import Path


def answers_in_its_first_life(_: object, told: Connection, lives: Path) -> None:
    """Say that it answers, but only the first process that runs this; `lives` gets a byte from each."""
    with lives.open("a") as record:
        record.write("x")
    if lives.stat().st_size == 1:
        told.send(True)
    time.sleep(0.3)

"""Random numbers by place: row n of a stream is the same numbers, whoever asks for it and with whatever rows around it.

Philox (Salmon et al. 2011) is a function of key and counter, so a block of rows starts at its own counter.
"""

import numpy as np
from scipy.special import ndtri

PER_STEP = 4
"""64-bit numbers that one step of Philox's counter gives."""

STREAMS = {"world": 1, "shoppers": 2, "items": 3, "requests": 4, "events": 5, "wanted": 6, "competitor": 7}


class Draws:
    """Uniform numbers of some consecutive rows of a stream, handed out column after column.

    Args:
        seed: of the simulation.
        stream: a key of STREAMS.
        width: numbers per row, fixed for the stream.
        start, stop: the rows.
    """

    def __init__(self, seed: int, stream: str, width: int, start: int, stop: int) -> None:
        steps = -(-width // PER_STEP)
        bits = np.random.Philox(key=(seed % 2**64) + (STREAMS[stream] << 64))
        bits.advance(start * steps)
        drawn = np.random.Generator(bits).random((stop - start, steps * PER_STEP))
        # 0 is one of the possible draws, and no argument for a logarithm.
        self._drawn, self._width, self._taken = np.clip(drawn, 2.0**-54, None), width, 0

    def uniform(self, columns: int) -> np.ndarray:
        """The next columns: float64 (rows, columns), above 0 and below 1."""
        first, self._taken = self._taken, self._taken + columns
        if self._taken > self._width:
            raise ValueError(f"{self._taken} numbers per row were asked for, the stream has {self._width}")
        return self._drawn[:, first : self._taken]

    def one(self) -> np.ndarray:
        """The next column: float64 (rows,)."""
        return self.uniform(1)[:, 0]

    def normal(self, columns: int) -> np.ndarray:
        """As `uniform`, standard normal."""
        return ndtri(self.uniform(columns))

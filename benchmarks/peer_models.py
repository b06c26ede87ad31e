"""One fine-tune per objective, as a peer: as many models on separate prompts as there are objectives, in turn."""

from benchmarks.figures import Timed
from benchmarks.peer_prompts import SeparatePrompts
from benchmarks.workload import STOCK, Sizes, Way


class SeparateModels:
    """`objectives` independent fine-tunes, each with a model, an adapter and an optimizer of its own."""

    def __init__(self, backbone: str, objectives: int, sizes: Sizes, way: Way = STOCK) -> None:
        self.tunes = [SeparatePrompts(backbone, sizes, seed, way) for seed in range(objectives)]

    def step(self) -> Timed:
        """A step of every model, one after another; the sum of their times."""
        return Timed(sum(tune.step() for tune in self.tunes))

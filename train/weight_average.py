"""The mean of the weights at a run's last validations, often better than any of them (Izmailov et al. 2018)."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from equipoise.common.atomic import atomic_write
from equipoise.train.world import World

FOLDER = "average"


class WeightAverage:
    """Keeps the trained tensors of the last validations in the run folder; all processes call it.

    Args:
        run: the run folder, which all processes see.
        world: of the job.
        count: how many validations; 0 keeps nothing.
    """

    def __init__(self, run: Path, world: World, count: int) -> None:
        self.folder, self.world, self.count = run / FOLDER, world, count

    def steps(self) -> list[int]:
        """Steps of the validations that are kept, ascending."""
        return sorted(int(file.stem) for file in self.folder.glob("*.safetensors"))

    def keep(self, step: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep the gathered tensors of a validation, and drop the oldest beyond the count."""
        if self.world.rank == 0:
            self.folder.mkdir(exist_ok=True)
            with atomic_write(self._file(step)) as partial:
                save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
            for old in self.steps()[: -self.count]:
                self._file(old).unlink()

    def forget_after(self, step: int) -> None:
        """Drop what a resumed run will validate again; -1 drops everything."""
        if self.world.rank == 0:
            for later in self.steps():
                if later > step:
                    self._file(later).unlink()
            if step < 0:
                shutil.rmtree(self.folder, ignore_errors=True)

    def mean(self) -> dict[str, torch.Tensor]:
        """The mean of each tensor over the steps kept, summed in float64, in its own dtype."""
        files = [load_file(self._file(step)) for step in self.steps()]
        return {
            name: sum(file[name].double() for file in files).div(len(files)).to(first.dtype)  # type: ignore[union-attr]
            for name, first in files[0].items()
        }

    def _file(self, step: int) -> Path:
        return self.folder / f"{step:06d}.safetensors"

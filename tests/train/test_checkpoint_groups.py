"""A checkpoint of another optimizer is refused in a sentence, whether or not it recorded its groups."""

import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from equipoise.common.errors import UserError
from equipoise.train.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from equipoise.train.checkpoint_files import STATE, seal
from equipoise.train.world import World


def _parts(*groups: list[str]) -> tuple[Accelerator, nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(2, 2)
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.AdamW([{"params": [parameters[name] for name in group]} for group in groups])
    return Accelerator(cpu=True), model, optimizer


def test_other_groups_are_refused(tmp_path: Path) -> None:
    accelerator, model, optimizer = _parts(["weight", "bias"])
    folder = save_checkpoint(tmp_path, accelerator, model, optimizer, TrainingState(3, 3, {}), World(), keep=1)
    assert load_checkpoint(folder, accelerator, *_parts(["weight", "bias"])[1:], World()).step == 3
    other = _parts(["weight"], ["bias"])[1:]
    with pytest.raises(UserError, match=r"written with 1 learning rates, this job has 2.*--overwrite"):
        load_checkpoint(folder, accelerator, *other, World())
    state = json.loads((folder / STATE).read_text("utf-8"))
    (folder / STATE).unlink()
    seal(folder, {key: value for key, value in state.items() if key not in ("groups", "files", "sha256")})
    with pytest.raises(UserError, match=r"the state of another optimizer .*--overwrite"):
        load_checkpoint(folder, accelerator, *other, World())

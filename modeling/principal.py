"""Adapters whose A begins as the principal directions of the weight beside it.

As in PiSSA (Meng et al. 2024), but B begins at 0 and the base stays as it is: it is common to all objectives, prefix
tokens read it without an objective's adapter, and exports name it by its hash.
"""

from typing import cast

import torch
from torch import nn

from equipoise.common.errors import UserError
from equipoise.modeling.adapters import lora_layers

OVERSAMPLED, ITERATIONS = 8, 4
"""Of the randomised singular value decomposition (Halko et al. 2011)."""
NORM = 3**-0.5
"""Of each row of A: what a row at random has on average."""


def start_principal(model: nn.Module) -> None:
    """Set every adapter's A, in place, to the directions of inputs that its module's weight makes largest.

    The result is the same on all processes. Rows beyond the weight's own rank stay as they are.

    Raises:
        UserError: the weights are packed to 4 bits, or cut up among processes.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in lora_layers(model):
            downs = [cast(nn.Linear, down).weight for down in layer.lora_A.values()]
            rows = principal_directions(_plain(layer.get_base_layer()), max(map(len, downs)))
            for down in downs:
                count = min(len(rows), len(down))
                down[:count] = NORM * rows[:count].to(down)


def principal_directions(weight: torch.Tensor, rank: int) -> torch.Tensor:
    """The right singular vectors of the largest singular values, float32 (at most rank, inputs), largest first.

    Args:
        weight: (outputs, inputs).
        rank: how many.
    """
    most = min(weight.shape)
    _, _, directions = torch.svd_lowrank(weight.float(), min(rank + OVERSAMPLED, most), ITERATIONS)
    rows = directions.T[: min(rank, most)]
    # A direction and its opposite are one: that whose largest entry is positive.
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    return rows * largest.sign()


def _plain(base: nn.Module) -> torch.Tensor:
    weight = base.weight
    assert isinstance(weight, torch.Tensor)
    if getattr(weight, "quant_state", None) is not None or not weight.is_floating_point():
        raise UserError(
            "lora.init: principal reads the base's weights, which backbone.quantize has packed: set lora.init=kaiming, "
            "or backbone.quantize=null"
        )
    if weight.numel() == 0 or hasattr(weight, "ds_id"):
        raise UserError(
            "lora.init: principal reads whole weights, which ZeRO-3 has cut up among processes: set lora.init=kaiming, "
            "or launch with ZeRO-2, DDP or FSDP 2"
        )
    # GPT-2's Conv1D has (inputs, outputs).
    return weight if isinstance(base, nn.Linear) else weight.T

"""Where the tokens of a batch are, worked out on the host: one copy to the device, and nothing that waits for it.

Shape suffixes: R rows, N candidates, P prefix and C candidate tokens, K towers.
"""

from dataclasses import dataclass

import numpy as np
import torch

from equipoise.data.ragged import RowLengths, run_indices
from equipoise.modeling.fused.varlen import Stretches


@dataclass(frozen=True)
class FusedLayout:
    """A batch's tokens in the order in which they are computed: all prefixes, then all candidates.

    Attributes:
        order: int32 (P + C,), which of the R·T tokens of the batch each is.
        all: prefixes, then candidates.
        prefixes, rows, candidates: stretches, those of K towers one tower after another; rows hold all candidates of a
            row.
        last: int32 (K·N,), the last token of each candidate among the K·C.
        owners: int32 (C,), the candidate of each token.
        one: K·N stretches of one token each.
        row_queries: K·R stretches of the last tokens of a row's candidates.
        prefix_tokens, candidate_tokens: P and C.
    """

    order: torch.Tensor
    all: Stretches
    prefixes_once: Stretches
    rows_once: Stretches
    prefixes: Stretches
    rows: Stretches
    candidates: Stretches
    last: torch.Tensor
    owners: torch.Tensor
    one: Stretches
    row_queries: Stretches
    prefix_tokens: int
    candidate_tokens: int

    @staticmethod
    def of(lengths: RowLengths, width: int, towers: int, device: torch.device) -> "FusedLayout":
        """The layout of a batch.

        Args:
            lengths: of its rows and candidates.
            width: T, tokens of a row, padding included.
            towers: K.
            device: of the tensors.
        """
        own, prefix = lengths.candidate, lengths.prefix
        filled = np.bincount(lengths.row, weights=own, minlength=len(prefix)).astype(np.int64)
        counts = np.bincount(lengths.row, minlength=len(prefix))
        starts = np.arange(len(prefix)) * width
        order = np.concatenate([run_indices(starts, prefix), run_indices(starts + prefix, filled)])
        total = int(own.sum())
        last = (np.arange(towers)[:, None] * total + np.cumsum(own) - 1).reshape(-1)
        kinds = {
            "all": np.concatenate([prefix, own]),
            "prefixes_once": prefix,
            "rows_once": filled,
            "prefixes": np.tile(prefix, towers),
            "rows": np.tile(filled, towers),
            "candidates": np.tile(own, towers),
            "one": np.ones(towers * len(own), np.int64),
            "row_queries": np.tile(counts, towers),
        }
        ends = {name: np.concatenate([[0], np.cumsum(sizes)]) for name, sizes in kinds.items()}
        indices = [order, last, np.repeat(np.arange(len(own)), own)]
        whole = torch.from_numpy(np.concatenate([*indices, *ends.values()]).astype(np.int32))
        if device.type == "cuda":
            whole = whole.pin_memory().to(device, non_blocking=True)
        on_device = whole.split([*map(len, indices), *map(len, ends.values())])
        stretches = {
            # The kernels want ends that begin where a load may.
            name: Stretches(each.clone() if device.type == "cuda" else each, int(kinds[name].max(initial=0)))
            for (name, each) in zip(ends, on_device[3:], strict=True)
        }
        return FusedLayout(
            order=on_device[0],
            last=on_device[1],
            owners=on_device[2],
            prefix_tokens=int(prefix.sum()),
            candidate_tokens=total,
            **stretches,
        )

"""A written ONNX graph, called as the trained model is: for measurements and for serving on CPUs."""

from pathlib import Path

import torch
from torch import nn


class OnnxModel(nn.Module):
    """Runs a graph of `equipoise.export.onnx_graph` with onnxruntime, on the CPU.

    Args:
        path: of the graph.
        offsets: pointwise objective → its logit_offset, which the graph leaves out.
        threads: of onnxruntime; 0: its own choice.
    """

    def __init__(self, path: Path, offsets: dict[str, float], threads: int = 0) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.offsets = offsets

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """As SlateModel: float32 (N,) per objective, pointwise ones with their offset."""
        names = [output.name for output in self.session.get_outputs()]
        values = self.session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
        outputs = {}
        for name, value in zip(names, values, strict=True):
            kind, _, objective = name.partition("_")
            offset = self.offsets[objective] if kind == "logit" else 0.0
            outputs[objective] = torch.from_numpy(value) + offset
        return outputs

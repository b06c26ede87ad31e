"""One ONNX graph of a trained encoder: packed slates in, the logits and adjustments of all objectives out.

The graph is the model itself under `attention: sdpa`: a prefix is encoded once for all its candidates, the trunk once
for all objectives; with `lora.scope: candidates` adapters are masked on prefix tokens, so it is exact.
All dimensions are dynamic. onnx, onnxscript and onnxruntime are the extra `onnx`.

Inputs, int64 (shape suffixes as in modeling/model.py): input_ids, position_ids, segment_ids (R, T), candidate_tokens
(N, L), slots (S, M); float32 features (N, F), standardised, where the heads read some. Outputs, float32 (N,):
logit_NAME per pointwise objective, without its logit_offset; delta_NAME per list-wise objective.

Where objectives begin as priors, float32 prior (N, priors), log-odds in the order of serving.json; where heads compare,
float32 vectors (U, D), int64 history (S, H) of at least 5 columns, and thing (N,), rows of vectors, -1 for none."""

import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import Dim

from equipoise.common.errors import UserError
from equipoise.data.batches import Slate, build_batch
from equipoise.data.things import SlateThings
from equipoise.modeling.comparison import BEST
from equipoise.modeling.model import PACKED, ForwardRequest, SlateModel

FOLDER = "onnx"
GRAPH = "model.onnx"
INT8 = "model_int8.onnx"
REPORT = "report.json"
OPSET = 20
EXTERNAL_ABOVE = 3 << 29
"""Bytes of weights above which they are in a file next to the graph: protobuf holds less than 2 GiB."""

NAMESPACE = "namespace"
KEPT_IN_FULL = (".lora_A.", ".lora_B.", ".heads.")
"""Parts of a node's namespace that keep it in float32 in the int8 graph."""

INPUTS = ("input_ids", "position_ids", "segment_ids", "candidate_tokens", "slots")


def refuse_onnx(encoder: bool, quantized: bool) -> None:
    """Refuse what has no graph, before any work.

    Raises:
        UserError: the backbone is a decoder or quantized, or the extra is not installed.
    """
    if not encoder:
        raise UserError(
            "--format onnx: the graphs are for encoders, this backbone is a decoder: serve it with --format peft or "
            "merged"
        )
    if quantized:
        raise UserError(
            "--format onnx: a base quantized to 4 bits has no ONNX form: train without backbone.quantize (see --int8)"
        )
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--format onnx: {missing[0]} is not installed: run `pip install 'equipoise[onnx]'`")


def output_names(model: SlateModel) -> list[str]:
    """Names of the graph's outputs, in the order of the towers."""
    return [*(f"logit_{name}" for name in model.pointwise), *(f"delta_{name}" for name in model.listwise)]


class SlateGraph(nn.Module):
    """The model as the graph shows it: tensors in, a tuple of tensors out."""

    def __init__(self, model: SlateModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        segment_ids: torch.Tensor,
        candidate_tokens: torch.Tensor,
        slots: torch.Tensor,
        features: torch.Tensor | None = None,
        prior: torch.Tensor | None = None,
        vectors: torch.Tensor | None = None,
        history: torch.Tensor | None = None,
        thing: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Outputs (N,), in the order of `output_names`."""
        tensors = (input_ids, position_ids, segment_ids, candidate_tokens, slots)
        inputs: dict[str, Any] = dict(zip((*PACKED, "slate_candidates"), tensors, strict=True))
        inputs |= {} if features is None else {"features": features}
        inputs |= {} if prior is None else {"prior": prior}
        if vectors is not None:
            inputs["compared"] = {"vectors": vectors, "history": history, "candidate": thing}
        outputs = self.model.score(inputs)
        return tuple(outputs[name] - self.model.offsets.get(name, 0.0) for name in self.model.objectives)


def graph_inputs(inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """A batch as the graph reads it: tensors alone, by its own names, `compared` as inputs of their own."""
    tensors = {"slots" if name == "slate_candidates" else name: values for name, values in inputs.items()}
    tensors.pop("lengths", None)
    compared = tensors.pop("compared", None)
    if compared is not None:
        short = max(0, max(BEST) - compared["history"].shape[1])
        history = nn.functional.pad(compared["history"], (0, short), value=-1)
        tensors |= {"vectors": compared["vectors"], "history": history, "thing": compared["candidate"]}
    return tensors


def _example(model: SlateModel) -> dict[str, torch.Tensor]:
    """Two slates of unlike sizes over several rows, so that no dimension looks like a constant."""
    slates, features, priors = [], len(model.features), len(model.priors)
    comparison = getattr(model.heads[model.pointwise[0]], "comparison", None)
    for length, count in ((5, 4), (7, 3)):
        nothing = np.zeros(count, dtype=np.int64)
        candidates = [[4] * (3 + n % 2) for n in range(count)]
        values = np.ones((count, features), dtype=np.float32) if features else None
        prior = np.ones((count, priors), dtype=np.float32) if priors else None
        things = None
        if comparison is not None:
            vectors = np.eye(9, comparison.of_history.in_features, dtype=np.float32)
            things = SlateThings(np.arange(length), np.arange(count) + 2, vectors)
        slate = Slate(0, [3] * length, candidates, nothing, nothing, nothing, features=values)
        slates.append(replace(slate, prior=prior, things=things))
    return graph_inputs(build_batch(slates, max_row=16, pad_id=0).model_inputs())


def write_graph(folder: Path, model: SlateModel) -> dict[str, Any]:
    """Write `folder`/onnx/model.onnx; returns its entry in serving.json.

    Args:
        folder: of the export.
        model: the trained model in float32, an encoder, on the CPU and in evaluation form.
    """
    target = folder / FOLDER
    target.mkdir()
    names, example = output_names(model), _example(model)
    dynamic: dict[str, Any] = {name: {0: Dim.DYNAMIC, 1: Dim.DYNAMIC} for name in INPUTS}
    beside: dict[str, Any] = {"features": {0: Dim.DYNAMIC}, "prior": {0: Dim.DYNAMIC}, "vectors": {0: Dim.DYNAMIC}}
    beside |= {"history": {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}, "thing": {0: Dim.DYNAMIC}}
    dynamic |= {name: shape for name, shape in beside.items() if name in example}
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    with model.backbone.using("sdpa"), torch.no_grad(), _quiet("torch.onnx"):
        program = torch.onnx.export(
            SlateGraph(model).eval(),
            (),
            kwargs=example,
            dynamo=True,
            verbose=False,
            dynamic_shapes=dynamic,
            input_names=list(dynamic),
            output_names=names,
            opset_version=OPSET,
        )
    assert program is not None, "the exporter returns its program when it writes no file"
    for node in program.model.graph:  # stack traces name folders of this machine
        for key in [key for key in node.metadata_props if key != NAMESPACE]:
            del node.metadata_props[key]
    program.save(target / GRAPH, external_data=size > EXTERNAL_ABOVE)
    model.backbone.clear()
    return {"folder": FOLDER, "graph": GRAPH, "int8": None, "inputs": list(dynamic), "outputs": names, "opset": OPSET}


def write_int8(folder: Path) -> None:
    """Write `folder`/onnx/model_int8.onnx: weights of matrix products in int8, activations quantised as they come.

    Adapters and heads stay in float32: they are a small part of the work and hold all that was trained.

    Raises:
        RuntimeError: no matrix product was quantised.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = folder / FOLDER / GRAPH
    nodes = onnx.load(str(path), load_external_data=False).graph.node
    kept = [node.name for node in nodes if any(part in _namespace(node) for part in KEPT_IN_FULL)]
    with _quiet(""):
        quantize_dynamic(
            str(path),
            str(folder / FOLDER / INT8),
            weight_type=QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=kept,
            op_types_to_quantize=["MatMul"],
            use_external_data_format=Path(f"{path}.data").exists(),
        )
    products = onnx.load(str(folder / FOLDER / INT8), load_external_data=False).graph.node
    if not any(node.op_type in ("MatMulInteger", "DynamicQuantizeMatMul") for node in products):
        raise RuntimeError("onnxruntime quantised no matrix product of the graph")


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Keep a library's advice to its own developers off the terminal."""
    noise = logging.getLogger(logger)
    level = noise.level
    noise.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        noise.setLevel(level)


def _namespace(node: Any) -> str:
    """The path of modules that a node of the graph comes from, as the exporter wrote it."""
    return next((entry.value for entry in node.metadata_props if entry.key == NAMESPACE), "")


class OnnxModel(nn.Module):
    """Runs a graph of `equipoise.export.onnx` with onnxruntime, on the CPU.

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

    def forward(self, request: ForwardRequest) -> dict[str, torch.Tensor]:
        """As SlateModel: float32 (N,) per objective, pointwise ones with their offset."""
        names = [output.name for output in self.session.get_outputs()]
        values = self.session.run(None, {name: tensor.numpy() for name, tensor in graph_inputs(request.inputs).items()})
        outputs = {}
        for name, value in zip(names, values, strict=True):
            kind, _, objective = name.partition("_")
            offset = self.offsets[objective] if kind == "logit" else 0.0
            outputs[objective] = torch.from_numpy(value) + offset
        return outputs

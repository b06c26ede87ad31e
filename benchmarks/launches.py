"""Launches and waits of a training step as a GPU would see them, counted on a CPU.

    python -m benchmarks.launches [--quick] --json FILE

The real loop (equipoise.train.loop) under autocast in bfloat16 with the depth of Llama 3.2 1B and Llama 3.1 8B, thin:
`launches_1b_k4`, `waits_1b_k4` and so on per micro-step with 1, 4 and 8 objectives on ragged slates by fused kernels,
`…_plain_1b_k4` by the stock layers, `views_…`, and the launches of each part; `launch_growth_k1_k8`. `launches_bert_k4`
and its like: of an encoder with the depth of BERT base; `launches_serve_1b_k4`, `launches_serve_plain_1b_k4` and so on:
of a server, per request of 20 candidates and a known shopper.
`gathers_upper_zero3`: how often ZeRO-3 would gather an upper layer's weights in a micro-step of
configs/qwen3_32b_zero3.yaml. `host_seconds_over_peft`: CPU time of the loop's step, whose kernels cost nothing, over
one of plain PEFT with one objective on separate prompts. `modelled_share_1b` (and `_8b`, and `_plain_…`): FLOPs at
the true shapes over what the card could do in the modelled time of a step, 31 µs per launch or the roofline of all
operations (70 % of the peak in matrix products, 80 % of the bandwidth of an H200), whichever is longer.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils._pytree import tree_leaves
from transformers.utils import logging as transformers_logging

from benchmarks import workload
from benchmarks.figures import figure, ratio, report, show, write
from benchmarks.launches_count import LaunchCounter, counting
from benchmarks.launches_roofline import modelled, modelled_peft
from benchmarks.peer_prompts import SeparatePrompts
from benchmarks.workload import Sizes
from equipoise.configs.load import as_override, load_config
from equipoise.configs.schema import RunConfig
from equipoise.data.batches import Slate, SlateBatch, build_batch
from equipoise.data.sampling import BatchOrder
from equipoise.modeling import boundary
from equipoise.modeling.adapters import lora_layers
from equipoise.modeling.cached_scorer import CachedScorer, TokenSlate
from equipoise.modeling.folded import fold_shared
from equipoise.modeling.fused import kernels, llama_block, varlen
from equipoise.modeling.fused.requests import FusedScorer
from equipoise.modeling.model import ModelSpec, SlateModel, build_model
from equipoise.modeling.precision import computing
from equipoise.modeling.prefix_cache import PrefixCache
from equipoise.train.checkpoint import TrainingState
from equipoise.train.flat_adamw import FlatAdamW
from equipoise.train.loop import Hooks, Loop
from equipoise.train.objectives import base, diversity, grouped, placed, pointwise
from equipoise.train.objectives.registry import build_objectives
from equipoise.train.parameters import optimizer_groups
from equipoise.train.world import World

DEPTHS = {"1b": (16, 10), "8b": (32, 21)}
"""Layers, and those below the boundary."""
ENCODER = (12, 8)
"""The same of BERT base."""
OBJECTIVES: dict[int, dict[str, Any]] = {
    1: {"ctr": {}},
    4: {"ctr": {}, "cvr": {}, "diversity": {"attributes": ["category"]}, "fairness": {"attribute": "category"}},
    8: {
        "ctr": {},
        "cvr": {},
        **{f"o{n}": {"kind": "binary", "label": f"o{n}"} for n in range(3)},
        "diversity": {"attributes": ["category"]},
        "fairness": {"attribute": "category"},
        "coverage": {"attribute": "category"},
    },
}
VOCABULARY, LR = 300, 1e-3
LOG_EVERY = 10


class _Batches:
    """The same ragged batch over and over, in the shape of `TrainBatches`."""

    def __init__(self, batch: SlateBatch) -> None:
        self.batch, self.order = batch, BatchOrder(slates=1, batch_size=1, processes=1, rank=0, seed=0)

    def __getitem__(self, number: int) -> SlateBatch:
        return self.batch


def ragged_batch(labels: list[str], seed: int = 0, slates: int = 3) -> SlateBatch:
    """Slates of unequal prefixes, candidates and lengths."""
    rng, made = np.random.default_rng(seed), []
    for row in range(slates):
        count = int(rng.integers(2, 6))
        click = np.arange(count) % 2
        made.append(
            Slate(
                row=row,
                prefix=rng.integers(5, VOCABULARY, int(rng.integers(4, 12))).tolist(),
                candidates=[rng.integers(5, VOCABULARY, int(rng.integers(1, 6))).tolist() for _ in range(count)],
                item=np.arange(count),
                click=click,
                conversion=click * (np.arange(count) % 4 == 1),
                labels={name: click.astype(np.float32) for name in labels},
            )
        )
    return build_batch(made, 200, 0, {"category": np.arange(8) % 3})


def thin_model(
    layers: int,
    split: int,
    config: RunConfig,
    hidden: int,
    folder: str,
    dtype: str,
    whole: bool = True,
    arch: str = "llama",
) -> SlateModel:
    """A Llama, or a BERT, of so many layers whose width is next to nothing."""
    shape = {"arch": arch, "hidden_size": hidden, "intermediate_size": hidden, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 8, "vocab_size": VOCABULARY}
    heads |= {"num_key_value_heads": 2} if arch == "llama" else {}
    workload.BACKBONES["thin"] = {**shape, **heads, "max_position_embeddings": 4096, "split": split}
    base = workload.backbone_config("thin", folder, workload.Way(dtype=dtype))  # type: ignore[arg-type]
    objectives = build_objectives(config.objectives)
    pointwise = {name: o.outputs for name, o in objectives.items() if o.kind == "pointwise"}
    listwise = [name for name, o in objectives.items() if o.kind == "listwise"]
    return build_model(ModelSpec(base, config.lora, pointwise, listwise), partial_last_layer=whole).train()


def _config(objectives: int, bf16: bool) -> RunConfig:
    train = {"max_steps": 1, "lr": LR, "log_every": LOG_EVERY, "self_check": False, "batch_size": 3}
    return RunConfig.model_validate(
        {
            "name": "launches",
            "output": "unused",
            "data": {"folder": "unused", "source": "complete_journey"},
            "backbone": {"path": "unused"},
            "lora": {"targets": "all-linear"},
            "objectives": OBJECTIVES[objectives],
            "train": {**train, "precision": "bf16" if bf16 else "fp32"},
        }
    )


def build_loop(
    depth: tuple[int, int],
    objectives: int,
    hidden: int = 64,
    bf16: bool = True,
    way: str = "fused",
    whole: bool = True,
    arch: str = "llama",
) -> Loop:
    """The loop of a run with random weights; not `whole`: with the layers as ZeRO-3 runs them."""
    config = _config(objectives, bf16)
    with tempfile.TemporaryDirectory() as folder:
        model = thin_model(*depth, config, hidden, folder, "bfloat16" if bf16 else "float32", whole, arch)
    bound = {name: each.bind({"category": 3}, {}) for name, each in build_objectives(config.objectives).items()}
    batch = ragged_batch([name for name in OBJECTIVES[objectives] if name.startswith("o")])
    if way == "fused":
        model.use_fused()
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16" if bf16 else "no")
    optimizer = FlatAdamW(optimizer_groups(model, config.train), weight_decay=0.0)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    hooks = Hooks(lambda step, values: None, lambda step: None, lambda progress: None, lambda step: None)
    return Loop(config, accelerator, wrapped, optimizer, bound, _Batches(batch), World(), hooks)  # type: ignore[arg-type]


def run_step(loop: Loop, step: int) -> None:
    """One micro-step and the optimizer's, as `Loop.run` takes them."""
    loop._micro_step(loop.batches[0].to(loop.accelerator.device), TrainingState(step=step, micro=step), False)


def count_step(loop: Loop, steps: int = 2) -> LaunchCounter:
    """What one step of a loop launches, after the first ones."""
    for step in range(steps):
        run_step(loop, step)
    counter, batch = LaunchCounter(), loop.batches[0]
    for parameter in loop.slate_model.parameters():
        counter.place(parameter)
    for state in loop.optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor) and value.dim():
                counter.place(value)
    for value in (*vars(batch).values(), *batch.attributes.values(), *batch.labels.values()):
        if isinstance(value, torch.Tensor):
            counter.place(value)
    with counting(counter):
        run_step(loop, steps)
    return counter


def count_request(depth: tuple[int, int], way: str, candidates: int = 20) -> LaunchCounter:
    """What a request of a known shopper launches in a server, with four objectives, by `fused` or `plain` kernels."""
    config = _config(4, bf16=True)
    with tempfile.TemporaryDirectory() as folder:
        model = thin_model(*depth, config, 64, folder, "bfloat16").eval()
    fold_shared(model)
    if way == "fused":
        model.use_fused()
    kind = FusedScorer if way == "fused" else CachedScorer
    scorer, counter = kind(model, PrefixCache(1 << 30), 4096), LaunchCounter()
    slates = [TokenSlate([7] * 30, [[5 + n % 9] * (3 + n % 4) for n in range(candidates)])]
    with computing("bf16", torch.device("cpu")):
        scorer.score(slates)
        for tensor in (*model.parameters(), *model.buffers()):
            counter.place(tensor)
        for state in scorer.cache._states.values():
            for tensor in tree_leaves(vars(state)):
                if isinstance(tensor, torch.Tensor):
                    counter.place(tensor)
        with counting(counter):
            scorer.score(slates)
    return counter


def gathers() -> int:
    """How often ZeRO-3 gathers an upper layer in a micro-step: forwards, recomputations and backwards of a linear."""
    path = Path(__file__).resolve().parents[1] / "configs" / "qwen3_32b_zero3.yaml"
    config = load_config(path, [as_override("data.folder", "unused")])
    loop = build_loop((4, 2), 4, bf16=False, way="plain", whole=False)
    loop.slate_model.upper.checkpointing = config.backbone.checkpointing
    loop.slate_model.candidates_only = config.lora.scope == "candidates"
    loop.one_by_one = False  # as under ZeRO-3
    calls = 0

    def called(*args: object) -> None:
        nonlocal calls
        calls += 1

    linear = lora_layers(loop.slate_model.backbone.upper[0])[0].get_base_layer()
    linear.register_forward_pre_hook(called)
    linear.register_full_backward_pre_hook(called)
    run_step(loop, 0)
    return calls


@contextmanager
def stand_ins() -> Iterator[None]:
    """Fused kernels that cost next to nothing, as to a host that only starts them; all of their numbers are 0."""

    def like(*positions: int) -> Any:
        return lambda *arguments: tuple(torch.zeros_like(arguments[at]) for at in positions)

    def one(position: int) -> Any:
        return lambda *arguments: torch.zeros_like(arguments[position])

    def normed(x: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
        return torch.zeros_like(x), torch.zeros_like(x), x.new_zeros(*x.shape[:-1], 1)

    def half(gate_up: torch.Tensor) -> torch.Tensor:
        return gate_up.new_zeros(*gate_up.shape[:-1], gate_up.shape[-1] // 2)

    def attended(q: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros_like(q), q.new_zeros(q.shape[1], q.shape[0])

    def packed(dq: torch.Tensor, dk: torch.Tensor, *rest: Any) -> torch.Tensor:
        return dq.new_zeros(dq.shape[0], dq.shape[1] + 2 * dk.shape[1], dq.shape[2])

    norms = {"add_norm": normed, "add_norm_backward": one(0)}
    cheap: dict[Any, dict[str, Any]] = {
        kernels: norms,
        llama_block: {**norms, "rotate": one(0), "swiglu": half, "swiglu_backward": one(1)},
        varlen: {
            "attend": attended,
            "attend_backward": like(1, 2, 3),
            "merge": like(0, 1),
            "merge_into": one(3),
            "packed": packed,
        },
        boundary: {"finite_rows": lambda x: (x, x.new_ones(len(x), dtype=torch.bool))},
        base: {"averaged": lambda before, now, momentum: (now, now)},
        pointwise: {"entire_space_loss": lambda logits, *rest: (logits[0].new_ones(()), torch.ones_like(logits[-1]))},
        placed: {
            "drawn_lists": lambda delta, *rest: (delta.new_ones(()), torch.ones_like(delta)),
            "slate_marks": lambda click, _, item, row, at, others: (
                click.new_ones(at.shape[0], at.shape[1] + others), row, click.new_ones(len(row)),
            ),
        },
        grouped: {"group_prices": lambda averages: averages[0]},
        diversity: {"path_distance": lambda codes: torch.zeros(*codes[0].shape, codes[0].shape[1])},
    }  # fmt: skip
    with ExitStack() as stack:
        for module, functions in cheap.items():
            for name, function in functions.items():
                stack.enter_context(patch.object(module, name, function))
        yield


def host_seconds(depth: tuple[int, int], turns: int, steps: int = 5) -> dict[str, Any]:
    """CPU seconds of our step with four objectives over those of plain PEFT with one on separate prompts, by turns."""
    loop = build_loop(depth, 4, hidden=32, bf16=False)
    workload.BACKBONES["thin"]["hidden_size"] = 32
    peer = SeparatePrompts("thin", Sizes(4, 1, 4, 2), steps=steps)
    spent: list[float] = []
    clock = peer.clock

    def begin(*args: object, **kwargs: object) -> None:
        clock.started = time.process_time()

    def end(*args: object, **kwargs: object) -> None:
        spent.append(time.process_time() - clock.started)
        clock.seconds.append(0.0)

    clock.on_step_begin, clock.on_step_end = begin, end  # type: ignore[method-assign]

    def ours() -> None:
        for step in range(steps):
            begin()
            run_step(loop, step)
            end()

    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(turns + 1):
        for name, run in {"ours": ours, "peer": peer.step}.items():
            with stand_ins() if name == "ours" else nullcontext():
                run()
            seconds[name].append(statistics.median(spent[1:]))  # the first one of a turn finds cold caches
            spent.clear()
    return ratio({name: np.array(each[1:]) for name, each in seconds.items()}, "ours", "peer")


def measure(quick: bool) -> list[dict[str, Any]]:
    """All figures."""
    totals: dict[str, int] = {}
    host = host_seconds(DEPTHS["1b"], 3 if quick else 9)  # first, before other models burden the collector
    figures = [figure("host_seconds_over_peft", **host, unit="CPU s / CPU s")]
    depths = {"1b": DEPTHS["1b"]} if quick else DEPTHS
    counted = [*((name, count) for name in depths for count in OBJECTIVES), ("bert", 4)]
    for name, count, way in [(*each, way) for way in ("fused", "plain") for each in counted]:
        arch, depth = ("bert", ENCODER) if name == "bert" else ("llama", depths[name])
        counter = count_step(build_loop(depth, count, way=way, arch=arch))
        parts = {part: sum(each.values()) for part, each in sorted(counter.launches.items())}
        end = f"{name}_k{count}" if way == "fused" else f"plain_{name}_k{count}"
        totals[end] = counter.total
        figures.append(figure(f"launches_{end}", counter.total, "per micro-step", parts=parts))
        figures.append(figure(f"waits_{end}", sum(counter.waits.values()), "per micro-step", at=dict(counter.waits)))
        figures.append(figure(f"views_{end}", counter.views, "per micro-step"))
    for name in depths:
        for way, end in (("fused", f"{name}_k4"), ("plain", f"plain_{name}_k4")):
            counter = count_request(depths[name], way)
            figures.append(figure(f"launches_serve_{end}", counter.total, "per request"))
            figures.append(figure(f"waits_serve_{end}", sum(counter.waits.values()), "per request"))
    figures.append(figure("launch_growth_k1_k8", totals["1b_k8"] / totals["1b_k1"], "launches / launches"))
    figures.append(figure("gathers_upper_zero3", gathers(), "per micro-step"))
    ours: dict[str, float] = {}
    for name in depths:
        for way, end in (("fused", f"{name}_k4"), ("plain", f"plain_{name}_k4")):
            share = modelled(name, totals[end], way)
            figures.append(figure(f"modelled_share_{end.removesuffix('_k4')}", **share, unit="of the dense peak"))
            ours.setdefault(name, share["ms_per_impression"])
        for fast, end in ((False, f"peft_{name}"), (True, f"peft_fast_{name}")):
            peer = modelled_peft(name, fast)
            figures.append(figure(f"modelled_ms_{end}", **peer, unit="ms per impression"))
            figures.append(figure(f"modelled_over_{end}", peer["value"] / ours[name], "ms / ms, per impression"))
    return figures


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Launches and waits of a training step.")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="the 1B shape alone")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    figures = measure(asked.quick)
    write(asked.json, report("launches", figures, quick=asked.quick))
    show("Launches and waits of a training step", figures)


if __name__ == "__main__":
    main()

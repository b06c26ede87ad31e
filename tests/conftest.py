"""Builders that the tests share: tiny backbones of every kind, slates, batches, and several processes in one."""

import os
import subprocess

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import copy
import importlib.util
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from benchmarks.random_run import write_random_run
from equipoise.configs.load import load_config
from equipoise.configs.schema import BackboneConfig, LoraConfig, RunConfig
from equipoise.data.batches import Slate, SlateBatch, build_batch
from equipoise.data.prepare.slates import prepare
from equipoise.modeling.model import ModelSpec, SlateModel, build_model
from equipoise.train.objectives.base import Step, Totals, local_totals
from equipoise.train.world import World

# Derandomised, so that a red run is red everywhere; `--hypothesis-profile explore` looks further, `quick` less far.
quiet = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("repeatable", max_examples=100, derandomize=True, **quiet)
settings.register_profile("quick", max_examples=10, derandomize=True, **quiet)
settings.register_profile("explore", max_examples=3000, **quiet)
settings.load_profile("repeatable")

torch.set_num_threads(1)  # the models are tiny: more threads would only wait for each other

VOCABULARY = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the longest tests first, so that no worker is left alone with one at the end."""

    def ranking(item: pytest.Item) -> int:
        return 0 if item.get_closest_marker("distributed") else 1 if item.get_closest_marker("slow") else 2

    first: dict[Path, int] = {}
    for item in items:
        first[item.path] = min(first.get(item.path, 2), ranking(item))
    items.sort(key=lambda item: first[item.path])


SIZES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 48},  # longer than a prompt, shorter than a packed row
    "bert": {},
    "roberta": {"pad_token_id": 1},
    "modernbert": {"local_attention": 96, "global_attn_every_n_layers": 2, "pad_token_id": 0},
}


def _model_config(arch: str) -> Any:
    from transformers import AutoConfig

    if arch == "gpt2":
        return AutoConfig.for_model(
            arch, n_embd=32, n_layer=4, n_head=4, vocab_size=VOCABULARY, n_positions=128, initializer_range=0.2
        )
    common = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,  # the usual 0.02 makes all tokens nearly alike, and every comparison easy
    }
    return AutoConfig.for_model(arch, **common, **SIZES[arch])


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., BackboneConfig]:
    """Architecture name → a backbone config of a tiny random model: 4 layers, split at 2, hidden size 32."""
    folders: dict[str, Path] = {}

    def build(arch: str, **options: Any) -> BackboneConfig:
        if arch not in folders:
            folders[arch] = tmp_path_factory.mktemp(arch)
            _model_config(arch).save_pretrained(folders[arch])
        return BackboneConfig(path=str(folders[arch]), **{"init": "random", "split": 2, **options})

    return build


def randomise(model: SlateModel, seed: int) -> None:
    """Give LoRA B and the heads large random values, so that adapters and candidates differ visibly."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
            elif name.startswith("heads."):
                spread = 0.3 if parameter.ndim > 1 else 0.1
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)


@pytest.fixture(scope="session")
def make_model(tiny_backbone: Callable[..., BackboneConfig]) -> Callable[..., SlateModel]:
    """A tiny slate model; by default with ctr, cvr and diversity, adapters and heads randomised, in evaluation form."""

    def build(
        arch: str = "llama",
        *,
        seed: int = 3,
        pointwise: dict[str, int] | None = None,
        listwise: tuple[str, ...] = ("diversity",),
        random_adapters: bool = True,
        keep_embeddings: bool = False,
        scope: str = "all",
        retrieval: dict[str, int] | None = None,
        partial_last_layer: bool = True,
        **backbone: Any,
    ) -> SlateModel:
        model = build_model(
            ModelSpec(
                tiny_backbone(arch, **backbone),
                LoraConfig(rank=4, alpha=8, scope=scope),
                pointwise or {"ctr": 1, "cvr": 1},
                listwise,
                {"ctr": -1.5, "cvr": -0.5},
                seed,
                keep_embeddings,
                retrieval=retrieval or {},
            ),
            partial_last_layer,
        )
        if random_adapters:
            randomise(model, seed)
        return model.eval()

    return build


@pytest.fixture(scope="session")
def make_slate() -> Callable[..., Slate]:
    """A slate of random tokens: `lengths` gives the number of tokens of every candidate."""

    def build(seed: int, lengths: list[int], prefix: int = 9, row: int = 0, log_sampling_rate: float = 0.0) -> Slate:
        rng = np.random.default_rng([seed, 11])
        click = rng.integers(0, 2, len(lengths))
        return Slate(
            row=row,
            prefix=rng.integers(5, VOCABULARY, prefix).tolist(),
            candidates=[rng.integers(5, VOCABULARY, length).tolist() for length in lengths],
            item=rng.integers(0, 50, len(lengths)),
            click=click,
            conversion=click * rng.integers(0, 2, len(lengths)),
            log_sampling_rate=log_sampling_rate,
        )

    return build


@pytest.fixture(scope="session")
def make_step() -> Callable[..., Step]:
    """What a loss reads, from labels and outputs; `sizes` are the numbers of candidates of the slates."""

    def build(
        sizes: list[int],
        outputs: dict[str, torch.Tensor],
        *,
        click: list[float] | None = None,
        conversion: list[float] | None = None,
        log_sampling_rate: list[float] | None = None,
        attributes: dict[str, list[int]] | None = None,
        weight: list[float] | None = None,
        self_normalize: bool = True,
        pointwise: tuple[str, ...] = ("ctr", "cvr"),
        world: World | None = None,
        totals: Totals | None = None,
    ) -> Step:
        count = sum(sizes)
        dtype = next(iter(outputs.values())).dtype
        zeros = np.zeros(max(sizes), dtype=np.int64)
        slates = [
            Slate(row, [1], [[2]] * size, zeros[:size], zeros[:size], zeros[:size]) for row, size in enumerate(sizes)
        ]
        batch = build_batch(slates, 8, 0)
        kept = log_sampling_rate or [0.0] * len(sizes)
        labels = {
            "click": torch.tensor(click or [0.0] * count, dtype=dtype),
            "conversion": torch.tensor(conversion or [0.0] * count, dtype=dtype),
            "log_sampling_rate": torch.tensor(kept, dtype=dtype)[batch.slate],
            "attributes": {name: torch.tensor(codes) for name, codes in (attributes or {}).items()},
            "weight": None if weight is None else torch.tensor(weight, dtype=dtype),
        }
        batch = SlateBatch(**{**vars(batch), **labels})
        totals = totals or Totals(*local_totals(batch, self_normalize).tolist())
        return Step(batch, outputs, totals, world or World(), pointwise, self_normalize=self_normalize)

    return build


@dataclass(frozen=True)
class TinyExport:
    """An export of a run with random adapters on tiny prepared data, and the config of the run."""

    config: RunConfig
    folder: Path

    @property
    def slates(self) -> Path:
        """The prepared test slates."""
        return self.config.data.folder / "slates" / "test-00000.parquet"


def tiny_run_builders() -> ModuleType:
    """tests/tiny_run.py, which importlib mode keeps from being imported by name."""
    spec = importlib.util.spec_from_file_location("tiny_run", Path(__file__).with_name("tiny_run.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", autouse=True)
def forked_checks() -> Iterator[None]:
    """Checks of exports fork from a process without the project; test_export.py starts new ones, one per backbone."""
    from tests import isolated

    with pytest.MonkeyPatch.context() as patch:
        forked = SimpleNamespace(Popen=isolated.Popen, PIPE=subprocess.PIPE)
        patch.setattr("equipoise.export.check_process.subprocess", forked)
        yield


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TinyExport]:
    """Architecture and settings of its backbone → an export, each made once and never to be written into."""
    from equipoise.export.write import export_run

    builders = tiny_run_builders()
    folder = tmp_path_factory.mktemp("tiny_export")
    settings = builders.run_settings(folder)
    made: dict[str, TinyExport] = {}

    def build(arch: str = "llama", scope: str = "candidates", **backbone: Any) -> TinyExport:
        name = "-".join([arch, scope, *map(str, backbone.values())])
        if name not in made:
            mine = copy.deepcopy(settings)
            mine["output"] = str(folder / name / "run")
            mine["backbone"] |= {"path": str(folder / name / "base"), **backbone}
            mine["lora"]["scope"] = scope
            shape = _model_config(arch)
            shape.vocab_size = 30522
            shape.save_pretrained(folder / name / "base")
            config = load_config(builders.write_config(mine, folder / name / "config.yaml"))
            if not config.data.folder.exists():
                prepare(config.data)
            write_random_run(config)
            with pytest.MonkeyPatch.context() as patch:  # the check in a fresh process has tests of its own
                patch.setattr("equipoise.export.write.run_check", lambda out: dict.fromkeys(mine["objectives"], 0.0))
                export_run(config.output, folder / name / "export", golden=8)
            made[name] = TinyExport(config, folder / name / "export")
        return made[name]

    return build


class ThreadWorld(World):
    """One of several processes that are really threads: each sum waits for all of them."""

    def __init__(self, rank: int, size: int, board: list[Any], barrier: threading.Barrier) -> None:
        self._rank, self._size, self._board, self._barrier = rank, size, board, barrier

    @property
    def size(self) -> int:
        return self._size

    @property
    def rank(self) -> int:
        return self._rank

    def gather(self, value: Any) -> list[Any]:
        self._board[self._rank] = value
        self._barrier.wait(timeout=20)
        values = list(self._board)
        self._barrier.wait(timeout=20)
        return values

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack(self.gather(x.detach().clone())).sum(0)

    def broadcast(self, x: torch.Tensor) -> torch.Tensor:
        return x.copy_(self.gather(x.clone())[0])


@pytest.fixture(scope="session")
def run_world() -> Callable[..., list[Any]]:
    """Run a function of a `World` in `size` processes at once and return the results in the order of ranks."""

    def run(size: int, work: Callable[[World], Any]) -> list[Any]:
        board: list[Any] = [None] * size
        results: list[Any] = [None] * size
        barrier = threading.Barrier(size)

        def one(rank: int) -> None:
            try:
                results[rank] = work(ThreadWorld(rank, size, board, barrier))
            except BaseException as error:
                results[rank] = error
                barrier.abort()

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # The first real failure, not the broken barrier that it left to the others.
        failures = [result for result in results if isinstance(result, BaseException)]
        for failure in sorted(failures, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
            raise failure
        return results

    return run

"""What the soak test attacks: a tiny shop, a run with checkpoints and its export; and commands in forked processes."""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.architecture_work import make_base, run_config, write_tokenizer
from equipoise.data.simulator.settings import SimulatorSettings
from equipoise.data.simulator.write import simulate

SHAPE = {
    "vocab_size": 700,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "pad_token_id": 0,
}
STEPS, SAVE_EVERY = 6, 2
PRELOADED = ["equipoise.train.job", "equipoise.launch.cli", "equipoise.serving.recommender", "datasets", "peft"]


@dataclass(frozen=True)
class Said:
    """How a command ended and all that it printed, in one line."""

    code: int
    printed: str

    @property
    def traceback(self) -> bool:
        """Whether it ended in one, or by a signal."""
        return "Traceback (most recent call last)" in self.printed or self.code not in (0, 2, 75)


def command(arguments: Sequence[str], seconds: float = 300) -> Said:
    """Run a command line of `equipoise` in a process that is forked from one with all imports.

    `["load-export", EXPORT]` is `Recommender.load` and one ranking, `["whole-export", EXPORT]` compares all its files.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    printed = Path(os.environ["EQUIPOISE_SOAK"]) / f"printed-{os.getpid()}.txt"
    process = context.Process(target=_run, args=(list(arguments), str(printed)))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
    text = printed.read_text(errors="replace") if printed.exists() else ""
    return Said(process.exitcode or 0, " ".join(text.split()))


def _run(arguments: list[str], printed: str) -> None:
    target = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(target, 1)
    os.dup2(target, 2)
    try:
        if arguments[0] in EXPORT_READERS:
            _read_export(arguments[1], EXPORT_READERS[arguments[0]])
            return
        from equipoise.launch.cli import main

        sys.argv = ["equipoise", *arguments]
        main(arguments)
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)


def _read_export(export: str, reader: Callable[[str], object]) -> None:
    from equipoise.common.errors import UserError

    try:
        reader(export)
    except UserError as error:
        print(f"error: {error}")
        sys.exit(2)


def _rank(export: str) -> None:
    from equipoise import Recommender

    recommender = Recommender.load(export)
    recommender.score_prepared([recommender.prepare(recommender.examples[0])])


def _compare_files(export: str) -> None:
    from equipoise.export.files import open_record, whole_files

    whole_files(Path(export), open_record(Path(export)))


EXPORT_READERS: dict[str, Callable[[str], object]] = {"load-export": _rank, "whole-export": _compare_files}


@dataclass(frozen=True)
class Work:
    """Folders of the soak test: `run` is finished and has checkpoints, `export` is made of it."""

    folder: Path
    config: Path
    run: Path
    export: Path

    @property
    def prepared(self) -> Path:
        """The prepared data."""
        return self.folder / "prepared"


def make_work(folder: Path) -> Work:
    """Make all of it, by the commands that users have.

    Raises:
        RuntimeError: a command failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["EQUIPOISE_SOAK"] = str(folder)
    simulate(folder / "sim", SimulatorSettings(requests=150))
    write_tokenizer(folder)
    make_base(SHAPE, folder / "base")
    settings: dict[str, Any] = run_config(folder, folder, "pretrained", "all").model_dump(mode="json")
    settings["train"] |= {"max_steps": STEPS, "save_every": SAVE_EVERY, "keep_checkpoints": 3, "lr": 3e-3}
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    work = Work(folder, config, folder / "run", folder / "export")
    for arguments in (["prepare", str(config)], ["train", str(config)], ["export", str(work.run), str(work.export)]):
        said = command(arguments)
        if said.code:
            raise RuntimeError(f"equipoise {' '.join(arguments)}: {said.printed[-2000:]}")
    return work

"""What the matrix of architectures trains on: a small simulated shop, a tokenizer, tiny bases with saved weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from equipoise.configs.schema import RunConfig
from equipoise.data.prepare.slates import prepare
from equipoise.data.simulator.settings import SimulatorSettings
from equipoise.data.simulator.write import simulate

SPECIAL = {
    "pad": "[PAD]",
    "unk": "[UNK]",
    "cls": "[CLS]",
    "sep": "[SEP]",
    "mask": "[MASK]",
    "bos": "<s>",
    "eos": "</s>",
}
VOCABULARY = 600


def run_config(work: Path, folder: Path, init: str, scope: str) -> RunConfig:
    """A run of two steps on the base in FOLDER/base, on the shop in `work`."""
    tables = ("impressions", "items", "users", "events")
    return RunConfig.model_validate(
        {
            "name": "matrix",
            "output": folder / "run",
            "seed": 17,
            "data": {
                "folder": work / "prepared",
                "tables": {name: work / "sim" / f"{name}.parquet" for name in tables},
                "split": {"valid_fraction": 0.1, "test_fraction": 0.2},
                "history": {"kinds": ["purchase"], "max_events": 3, "label": "bought "},
                "prompt": {
                    "prefix": ["{attitude}", "income {income}", "age {age}"],
                    "item": ["{title}"],
                    "context": ["price {price|money}"],
                },
            },
            "tokens": {"max_prefix": 48, "max_candidate": 24, "max_row": 256},
            "backbone": {"path": str(folder / "base"), "tokenizer": str(work / "tokenizer"), "init": init, "split": 2},
            "lora": {"rank": 4, "alpha": 8, "scope": scope},
            "objectives": {"ctr": {}, "cvr": {}, "diversity": {}},
            "balancing": {"method": "mgda"},
            # Large steps, so that adapters add something that can be told apart.
            "train": {"max_steps": 2, "batch_size": 2, "negatives": 3, "log_every": 1, "warmup": 0.0,
                      "lr": 3e-2, "head_lr": 1e-2},
        }
    )  # fmt: skip


def write_work(work: Path) -> None:
    """WORK/sim, WORK/tokenizer and WORK/prepared."""
    simulate(work / "sim", SimulatorSettings(requests=150))
    write_tokenizer(work)
    prepare(run_config(work, work, "random", "all").data)


def write_tokenizer(work: Path) -> None:
    """A byte-level BPE tokenizer of the shop's words, with all kinds of special tokens."""
    items, users = (pq.read_table(work / "sim" / f"{name}.parquet").to_pylist() for name in ("items", "users"))
    texts = [item["title"] for item in items] + ["price about 5", "bought before: ", "\n"]
    texts += [f"{user['attitude']}, income {user['income']}, age {user['age']}\n" for user in users[:500]]
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL["unk"]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL.values()), initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(texts, trainer)
    named = {f"{kind}_token": token for kind, token in SPECIAL.items()}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(work / "tokenizer")


def make_base(shape: Mapping[str, Any], base: Path) -> str:
    """Write a base of this shape; returns `backbone.init` for it.

    What transformers cannot build is left as its config alone, with random weights: that has to be refused.
    """
    base.mkdir(parents=True)
    (base / "config.json").write_text(json.dumps(dict(shape)))
    try:
        torch.manual_seed(0)
        AutoModel.from_config(AutoConfig.from_pretrained(base)).save_pretrained(base)
    except Exception:  # whatever a config of an unknown architecture trips over
        (base / "config.json").write_text(json.dumps(dict(shape)))
        return "random"
    return "pretrained"

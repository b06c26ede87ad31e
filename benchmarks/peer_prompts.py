"""The usual recipe, as a peer: one prompt per user-item pair, Hugging Face `Trainer`, PEFT, one objective.

The model is the stock `AutoModelForSequenceClassification` with one output and BCE with logits (its own loss, by
`problem_type`), with `get_peft_model`: rank 16, alpha 32, on all linear modules of all layers, in the same precision as
ours, with the same base weights. Stock SDPA attention without any mask, which is its fastest, for no prompt is padded.
AdamW at 1e-4, `max_grad_norm` 1, no dropout, no logging, saving or evaluation, data loaded in the training process.

A step is timed from `on_step_begin` to `on_step_end`: that `train()` starts up, and that it collates a batch, is not
counted against the peer. No tokens are shared between prompts, so its time and memory are linear in their number.
"""

import re
import tempfile
import time
from typing import Any, cast

import torch
from peft import get_peft_model
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from benchmarks.figures import Timed, wait_for_device
from benchmarks.workload import STOCK, Sizes, Way, backbone_config, place, random_batch
from equipoise.configs.schema import BackboneConfig, LoraConfig
from equipoise.modeling.adapters import lora_config, target_modules
from equipoise.modeling.backbone import find_layers, load_backbone
from equipoise.modeling.base_config import load_model_config
from equipoise.modeling.base_files import resolve_path

ADAPTER = LoraConfig(rank=16, alpha=32)


def classifier_config(ours: BackboneConfig) -> Any:
    """The stock class's configuration of a backbone, for one binary label."""
    config = load_model_config(ours)
    for name, value in {"num_labels": 1, "problem_type": "multi_label_classification", "pad_token_id": 0}.items():
        setattr(config, name, value)
    return config


def adapted(model: Any) -> nn.Module:
    """A stock classifier with PEFT's adapters on all linear layers of all of its layers."""
    layers_name, layers = find_layers(model)
    targets = "|".join(map(re.escape, target_modules(list(layers), ADAPTER.targets)[0]))
    modules = rf"{re.escape(layers_name)}\.\d+\.({targets})"
    return get_peft_model(model, lora_config(ADAPTER, target_modules=modules, task_type="SEQ_CLS"))


def stock_model(backbone: str, seed: int = 0, way: Way = STOCK, device: torch.device | None = None) -> nn.Module:
    """A stock sequence classifier with a PEFT adapter, on one of BACKBONES; of `way` only the dtype counts."""
    dtype = getattr(torch, way.dtype)
    where = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder, place(backbone, where):
        ours = backbone_config(backbone, folder, way)
        config = classifier_config(ours)
        torch.manual_seed(seed)
        kind: Any = AutoModelForSequenceClassification
        if ours.init == "random":
            model = kind.from_config(config, dtype=dtype, attn_implementation="sdpa")
            base = getattr(model, model.base_model_prefix)
            base.load_state_dict(load_backbone(ours, seed).state_dict(), strict=False)  # all but BERT's pooler
        else:
            path = resolve_path(ours.path)
            model = kind.from_pretrained(path, config=config, dtype=dtype, attn_implementation="sdpa")
        return adapted(model).to(where)


def prompts(sizes: Sizes, vocabulary: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Random prompts with labels, a dataset for `Trainer`: `input_ids` int64 (T,), `labels` float32 (1,)."""
    batch = random_batch(sizes, vocabulary, seed)
    if sizes.candidates != 1:
        raise ValueError(f"a prompt holds one candidate, not {sizes.candidates}")
    generator = torch.Generator().manual_seed(seed)
    labels = torch.rand(sizes.slates, 1, generator=generator).lt(0.3).float()
    return [{"input_ids": ids, "labels": label} for ids, label in zip(batch.input_ids, labels, strict=True)]


class StepClock(TrainerCallback):
    """Seconds of every step, from `on_step_begin` to `on_step_end`."""

    def __init__(self) -> None:
        self.started = 0.0
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock."""
        wait_for_device()
        self.started = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop the clock."""
        wait_for_device()
        self.seconds.append(time.perf_counter() - self.started)


class SeparatePrompts:
    """One fine-tune on separate prompts.

    Args:
        backbone: one of BACKBONES.
        sizes: of a step of one process; one candidate per slate.
        seed: of weights and prompts.
        way: its dtype counts.
        steps: taken in every call of `step`; their mean time is that of the call.
        copies: processes of the job, over which `Trainer` deals out the prompts.
        model: what `stock_model` gave, to be trained on further batches; a new one if None.
    """

    def __init__(
        self,
        backbone: str,
        sizes: Sizes,
        seed: int = 0,
        way: Way = STOCK,
        steps: int = 1,
        copies: int = 1,
        model: nn.Module | None = None,
    ) -> None:
        self.model = model or stock_model(backbone, seed, way)
        self.clock = StepClock()
        self._folder = tempfile.TemporaryDirectory()
        everybody = Sizes(sizes.slates * copies, sizes.candidates, sizes.prefix, sizes.length)
        settings = TrainingArguments(
            output_dir=self._folder.name,
            per_device_train_batch_size=sizes.slates,
            max_steps=steps,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            max_grad_norm=1.0,
            logging_strategy="no",
            save_strategy="no",
            eval_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_num_workers=0,
            bf16=way.dtype == "bfloat16",  # autocast, as ours trains
            use_cpu=not torch.cuda.is_available(),
        )
        self.trainer = Trainer(
            model=self.model,
            args=settings,
            train_dataset=cast(Any, prompts(everybody, cast(Any, self.model).config.vocab_size, seed)),
            data_collator=default_data_collator,
            callbacks=[self.clock],
        )
        self.trainer.remove_callback(PrinterCallback)

    def step(self) -> Timed:
        """Train for `steps` steps; their mean time. Adapter, head and optimizer go on from call to call."""
        before = len(self.clock.seconds)
        self.trainer.train()
        taken = self.clock.seconds[before:]
        return Timed(sum(taken) / len(taken))

    def score(self) -> torch.Tensor:
        """Logits of all prompts in one batch, float32 (N,), as `score_slates` takes ours."""
        self.model.eval()
        device = next(self.model.parameters()).device
        ids = torch.stack([entry["input_ids"] for entry in cast(Any, self.trainer.train_dataset)]).to(device)
        with torch.inference_mode():
            return self.model(input_ids=ids).logits[:, 0].float()


class SeparateModels:
    """`objectives` independent fine-tunes, each with a model, an adapter and an optimizer of its own."""

    def __init__(self, backbone: str, objectives: int, sizes: Sizes, way: Way = STOCK) -> None:
        self.tunes = [SeparatePrompts(backbone, sizes, seed, way) for seed in range(objectives)]

    def step(self) -> Timed:
        """A step of every model, one after another; the sum of their times."""
        return Timed(sum(tune.step() for tune in self.tunes))

"""What an Accelerate launcher, or a DeepSpeed file, asks of a job: honoured, or refused in one sentence at the start.

Accelerate hands its settings to the processes as environment variables; many would change nothing here, silently.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from equipoise.common.errors import UserError
from equipoise.configs.schema import TrainConfig

Variables = Mapping[str, str]
OFF = ("", "no", "none", "false", "0", "0.0", "null", "NO_WRAP")
HONOURED_IN_DEEPSPEED_FILE = (
    *("zero_optimization", "communication_data_type", "prescale_gradients", "gradient_predivide_factor"),
    *("steps_per_print", "wall_clock_breakdown", "dump_state", "memory_breakdown", "comms_logger"),
    *("zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "checkpoint"),
)  # fmt: skip
"""Keys of a DeepSpeed file that DeepSpeed acts on and that change nothing of what the run's config says."""


def refuse_launcher_settings(train: TrainConfig, variables: Variables | None = None) -> None:
    """Refuse what a launcher asks for and no job here does.

    Args:
        train: the run's settings, which the launcher's must not contradict.
        variables: the environment.

    Raises:
        UserError: names the setting of the Accelerate config or DeepSpeed file, and what to write there.
    """
    variables = os.environ if variables is None else variables
    for reason in _reasons(train, variables):
        raise UserError(f"the Accelerate config {reason}")


def uses(name: str, variables: Variables | None = None) -> bool:
    """Whether the launcher has switched something on: `DEEPSPEED`, `FSDP`, `MEGATRON_LM`, `PARALLELISM_CONFIG`."""
    return _on((os.environ if variables is None else variables).get(f"ACCELERATE_USE_{name}"))


def _on(value: Any) -> bool:
    return value is not None and str(value).lower() not in [off.lower() for off in OFF]


def _reasons(train: TrainConfig, variables: Variables) -> Iterator[str]:
    """Ends of the sentence "the Accelerate config …"; the first one is said."""
    yield from _parallelism(variables)
    yield from _numbers(train, variables)
    if uses("FSDP", variables):
        yield from _fsdp(variables)
    if uses("DEEPSPEED", variables):
        yield from _deepspeed(train, variables)


def _parallelism(variables: Variables) -> Iterator[str]:
    engines = "choose distributed_type MULTI_GPU, DEEPSPEED or FSDP"
    if uses("MEGATRON_LM", variables):
        yield f"asks for Megatron-LM, which this model cannot be cut up by: {engines}"
    if uses("PARALLELISM_CONFIG", variables):
        yield (
            "has a parallelism_config (tensor, context or sequence parallelism, or replicas of shards), which no "
            f"engine here does: remove it and {engines}; slates are short, so processes share the batch"
        )
    if uses("SAGEMAKER", variables):
        yield f"asks for SageMaker's own parallelism: {engines}"
    if _on(variables.get("ACCELERATE_DYNAMO_BACKEND")):
        yield "sets dynamo_backend, which would not reach the layers: set it to 'no', and backbone.compile=true"


def _numbers(train: TrainConfig, variables: Variables) -> Iterator[str]:
    precision = variables.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    wanted = "bf16" if train.precision == "bf16" else "no"
    if precision not in ("no", wanted):
        way = "set both to bf16, or mixed_precision to 'no'" if precision == "bf16" else "set mixed_precision to 'no'"
        yield f"says mixed_precision: {precision}, the run train.precision={train.precision}: {way}"
    steps = variables.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "auto")
    if steps not in ("auto", "1", str(train.accumulate)):
        yield (
            f"says gradient_accumulation_steps: {steps}, the run train.accumulate={train.accumulate}: remove the first"
        )


FSDP_MUST_BE_OFF = {
    "OFFLOAD_PARAMS": "set it to false, or launch with ZeRO-3 and offload_param_device: cpu",
    "ACTIVATION_CHECKPOINTING": "set it to false and backbone.checkpointing=true",
    "CPU_RAM_EFFICIENT_LOADING": "set it to false, for each process reads the base and keeps its part",
    "IGNORED_MODULES": "remove it, for adapters and heads are kept whole by themselves",
    "FORWARD_PREFETCH": "set it to false",
    "TRANSFORMER_CLS_TO_WRAP": "remove fsdp_transformer_layer_cls_to_wrap, for each layer is cut up by itself",
}
"""Settings of FSDP that no job here does, and what to do instead."""


def _fsdp(variables: Variables) -> Iterator[str]:
    if variables.get("FSDP_VERSION", "1") != "2":
        yield "asks for FSDP 1, which cannot keep adapters whole: set fsdp_config.fsdp_version: 2 (--accelerate fsdp2)"
    for setting, way_out in FSDP_MUST_BE_OFF.items():
        if _on(variables.get(f"FSDP_{setting}")):
            yield f"sets fsdp_{setting.lower()}, which no job here does: {way_out}"
    policy = variables.get("FSDP_AUTO_WRAP_POLICY", "").upper()
    if policy not in ("", "TRANSFORMER_BASED_WRAP"):
        yield f"says fsdp_auto_wrap_policy: {policy}, but each layer is cut up by itself: set TRANSFORMER_BASED_WRAP"
    if variables.get("FSDP_SHARDING_STRATEGY", "").upper() not in ("", "1", "NONE", "FULL_SHARD"):
        yield (
            f"says fsdp_sharding_strategy: {variables['FSDP_SHARDING_STRATEGY']}, which FSDP 2 does not know: remove "
            "it and set fsdp_reshard_after_forward"
        )
    state = variables.get("FSDP_STATE_DICT_TYPE", "").upper()
    if state not in ("", "FULL_STATE_DICT", "SHARDED_STATE_DICT"):
        yield f"says fsdp_state_dict_type: {state}: set FULL_STATE_DICT, for adapters are saved whole"


def _deepspeed(train: TrainConfig, variables: Variables) -> Iterator[str]:
    clipping = variables.get("ACCELERATE_GRADIENT_CLIPPING", "auto")
    if clipping not in ("auto", "1", "1.0") and float(clipping) != train.max_grad_norm:
        yield f"says gradient_clipping: {clipping}, the run train.max_grad_norm={train.max_grad_norm}: remove the first"
    for part in ("optimizer", "param"):
        device = variables.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{part.upper()}_DEVICE", "none")
        yield from _offload(part, device)
    if _on(variables.get("ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL")):
        yield "sets zero3_save_16bit_model, but a run saves adapters alone: set it to false"
    file = variables.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if _on(file):
        yield from _deepspeed_file(train, Path(file))


def _offload(part: str, device: str) -> Iterator[str]:
    if device not in ("none", "cpu"):
        yield f"says offload_{part}_device: {device}: set cpu or none, the devices that are known to train right"


def _deepspeed_file(train: TrainConfig, file: Path) -> Iterator[str]:
    named = f"names the DeepSpeed file {file}, which"
    try:
        settings = json.loads(file.read_text("utf-8"))
        zero = settings.get("zero_optimization") if isinstance(settings, dict) else None
    except OSError as error:
        yield f"{named} cannot be read ({error.strerror or error}): correct deepspeed_config_file"
        return
    except ValueError as error:
        yield f"{named} is no JSON ({error}): correct it"
        return
    if not isinstance(settings, dict) or not isinstance(zero, dict):
        yield f'{named} has no section zero_optimization: add "zero_optimization": {{"stage": 0}}, or 1, 2, 3'
        return
    yield from _zero_section(zero, named)
    yield from _contradictions(train, settings, named)
    for key, value in settings.items():
        known = key in HONOURED_IN_DEEPSPEED_FILE or key in _EQUAL
        if not known and not _is_off(value):
            yield f"{named} sets {key}, which no job here does: remove it"


def _is_off(value: Any) -> bool:
    if isinstance(value, dict):
        return not _on(value["enabled"]) if "enabled" in value else all(_is_off(each) for each in value.values())
    return not _on(value)


def _zero_section(zero: dict[str, Any], named: str) -> Iterator[str]:
    stage = zero.get("stage", 0)
    if stage not in (0, 1, 2, 3):
        yield f"{named} says zero_optimization.stage: {stage!r}: write 0, 1, 2 or 3"
    if zero.get("overlap_comm") not in (None, False):
        yield f"{named} sets zero_optimization.overlap_comm, which mixes gradients of adapters up: set it to false"
    for part in ("optimizer", "param"):
        section = zero.get(f"offload_{part}")
        if isinstance(section, dict):
            device = section.get("device", "none")
            yield from (f"{named} {reason}" for reason in _offload(part, "none" if device is None else device))
    if _on(zero.get("stage3_gather_16bit_weights_on_model_save")):
        yield f"{named} sets stage3_gather_16bit_weights_on_model_save, but a run saves adapters alone: set it to false"
    for key, value in zero.items():
        if (
            key.startswith(("zero_quantized", "zero_hpz", "mics_", "zeropp"))
            and _on(value)
            and (value is True or value != 1)
        ):
            yield f"{named} sets zero_optimization.{key}, with which updates are not those of other engines: remove it"


_EQUAL = {
    "gradient_accumulation_steps": "accumulate",
    "gradient_clipping": "max_grad_norm",
    "train_micro_batch_size_per_gpu": "batch_size",
    "train_batch_size": "batch_size",
    "fp16": "precision",
    "bf16": "precision",
}  # fmt: skip
"""Keys of a DeepSpeed file that say again what the run's config says."""


def _contradictions(train: TrainConfig, settings: dict[str, Any], named: str) -> Iterator[str]:
    for key in ("gradient_accumulation_steps", "gradient_clipping", "train_micro_batch_size_per_gpu"):
        value, own = settings.get(key, "auto"), getattr(train, _EQUAL[key])
        if value not in ("auto", own):
            yield f'{named} says {key}: {value}, the run train.{_EQUAL[key]}={own}: write "auto"'
    if settings.get("train_batch_size", "auto") != "auto":
        yield f'{named} says train_batch_size: write "auto", for train.batch_size decides'
    for key in ("fp16", "bf16"):
        section = settings.get(key)
        enabled = section.get("enabled", "auto") if isinstance(section, dict) else "auto"
        if enabled != "auto" and _on(enabled) and not (key == "bf16" and train.precision == "bf16"):
            yield f'{named} enables {key}, the run says train.precision={train.precision}: write "auto"'
        if key == "bf16" and enabled is False and train.precision == "bf16":
            yield f'{named} disables bf16, the run says train.precision=bf16: write "auto"'

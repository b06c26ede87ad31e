"""What a launcher asks for is honoured or refused in a sentence; what the packaged configs ask for is honoured."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from equipoise.common.errors import UserError
from equipoise.configs.schema import TrainConfig
from equipoise.train.launcher_settings import refuse_launcher_settings

PACKAGED = sorted((Path(__file__).resolve().parents[2] / "configs" / "accelerate").glob("*.yaml"))
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true"}


def check(variables: dict[str, str], **train: Any) -> None:
    refuse_launcher_settings(TrainConfig(**{"batch_size": 4, **train}), variables)


def variables_of(config: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What Accelerate's launcher hands to the processes of a config."""
    from accelerate.commands import launch
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    for name in list(launch.os.environ):
        if name.startswith(("ACCELERATE_", "FSDP_")):
            monkeypatch.delenv(name)
    parser = launch.launch_command_parser()
    options = parser.parse_args(["--config_file", str(config), "--main_process_port", "0", "train"])
    options, defaults, _ = launch._validate_launch_command(options)
    if not options.use_deepspeed:
        return prepare_multi_gpu_env(options)
    options.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    return prepare_deepspeed_cmd_env(options)[1]


@pytest.mark.parametrize("config", PACKAGED, ids=lambda path: path.stem)
def test_the_packaged_configs_are_honoured(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = variables_of(config, monkeypatch)
    for train in ({}, {"precision": "bf16"}, {"accumulate": 3, "max_grad_norm": 0.5}):
        check(variables, **train)
    text = yaml.safe_load(config.read_text())
    assert ("FSDP_VERSION" in variables) == (text["distributed_type"] == "FSDP")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "fsdp_version: 2"),
        ({"ACCELERATE_USE_FSDP": "true"}, "fsdp_version: 2"),
        ({**FSDP, "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params"),
        ({**FSDP, "FSDP_ACTIVATION_CHECKPOINTING": "true"}, "backbone.checkpointing=true"),
        ({**FSDP, "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, "fsdp_cpu_ram_efficient_loading"),
        ({**FSDP, "FSDP_IGNORED_MODULES": ".*lora.*"}, "fsdp_ignored_modules"),
        ({**FSDP, "FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"}, "TRANSFORMER_BASED_WRAP"),
        ({**FSDP, "FSDP_SHARDING_STRATEGY": "HYBRID_SHARD"}, "fsdp_sharding_strategy"),
        ({**FSDP, "FSDP_STATE_DICT_TYPE": "LOCAL_STATE_DICT"}, "FULL_STATE_DICT"),
        ({**FSDP, "FSDP_TRANSFORMER_CLS_TO_WRAP": "BertLayer"}, "fsdp_transformer_layer_cls_to_wrap"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM"),
        ({**FSDP, "ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "parallelism_config"),
        ({"ACCELERATE_USE_SAGEMAKER": "true"}, "SageMaker"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "backbone.compile=true"),
        ({"ACCELERATE_MIXED_PRECISION": "fp8"}, "mixed_precision: fp8"),
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, "mixed_precision: fp16"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "train.precision=fp32"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "train.accumulate=1"),
        ({**DEEPSPEED, "ACCELERATE_GRADIENT_CLIPPING": "0.25"}, "train.max_grad_norm=1.0"),
        ({**DEEPSPEED, "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "nvme"}, "offload_optimizer_device: nvme"),
        ({**DEEPSPEED, "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "nvme"}, "offload_param_device: nvme"),
        ({**DEEPSPEED, "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true"}, "zero3_save_16bit_model"),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_what_no_job_does_is_refused(variables: dict[str, str], said: str) -> None:
    with pytest.raises(UserError) as refused:
        check(variables)
    assert said in str(refused.value) and str(refused.value).count("\n") == 0


ZERO2 = {"zero_optimization": {"stage": 2, "overlap_comm": False}}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "no section zero_optimization"),
        ({"train_batch_size": "auto"}, "no section zero_optimization"),
        ({"zero_optimization": 3}, "no section zero_optimization"),
        ([], "no section zero_optimization"),
        ({"zero_optimization": {"stage": 4}}, "stage: 4"),
        ({"zero_optimization": {"stage": 2, "overlap_comm": True}}, "overlap_comm"),
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}, "offload_param_device: nvme"),
        ({"zero_optimization": {"stage": 3, "zero_quantized_weights": True}}, "zero_quantized_weights"),
        ({"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 8}}, "zero_hpz_partition_size"),
        ({**ZERO2, "fp16": {"enabled": True}}, "fp16"),
        ({**ZERO2, "bf16": {"enabled": True}}, "train.precision=fp32"),
        ({**ZERO2, "optimizer": {"type": "Adam"}}, "optimizer"),
        ({**ZERO2, "scheduler": {"type": "WarmupLR"}}, "scheduler"),
        ({**ZERO2, "gradient_accumulation_steps": 8}, "train.accumulate=1"),
        ({**ZERO2, "gradient_clipping": 0.3}, "train.max_grad_norm=1.0"),
        ({**ZERO2, "train_batch_size": 64}, "train_batch_size"),
        ({**ZERO2, "train_micro_batch_size_per_gpu": 64}, "train.batch_size=4"),
        ({**ZERO2, "tensor_parallel": {"autotp_size": 2}}, "tensor_parallel"),
        ({**ZERO2, "sequence_parallel_size": 2}, "sequence_parallel_size"),
        ({**ZERO2, "activation_checkpointing": {"partition_activations": True}}, "activation_checkpointing"),
        (
            {**ZERO2, "compression_training": {"weight_quantization": {"shared_parameters": {"enabled": True}}}},
            "compression_training",
        ),
        ({**ZERO2, "amp": {"enabled": True}}, "amp"),
    ],
    ids=lambda value: next(iter(value), "empty") if isinstance(value, dict) else "",
)
def test_a_deepspeed_file_is_read(settings: Any, said: str, tmp_path: Path) -> None:
    file = tmp_path / "deepspeed.json"
    file.write_text(json.dumps(settings))
    with pytest.raises(UserError) as refused:
        check({**DEEPSPEED, "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)})
    assert said in str(refused.value) and str(file) in str(refused.value)


def test_a_deepspeed_file_that_says_the_same_is_honoured(tmp_path: Path) -> None:
    file = tmp_path / "deepspeed.json"
    zero = {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "none"}}
    same = {"train_batch_size": "auto", "gradient_accumulation_steps": 2, "gradient_clipping": "auto"}
    file.write_text(json.dumps({"zero_optimization": zero, **same, "fp16": {"enabled": "auto"}, "amp": {}}))
    variables = {**DEEPSPEED, "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}
    check(variables, accumulate=2)
    for text, said in (("{", "no JSON"), (None, "cannot be read")):
        file.write_text(text) if text else file.unlink()
        with pytest.raises(UserError, match=said):
            check(variables)

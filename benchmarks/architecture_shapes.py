"""Tiny configs of families that transformers knows, by name: what the matrix tries where no folder is named."""

from typing import Any

Shape = dict[str, Any]

COMMON: Shape = {
    "vocab_size": 640,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 5,
    "eos_token_id": 6,
}
DECODER: Shape = {**COMMON, "num_key_value_heads": 2, "head_dim": 8}
EXPERTS: Shape = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT: Shape = {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
    "head_dim": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}
SEEN = {"sliding_window": 80}
"""A window that no prompt of the matrix leaves."""


def _of(family: str, *parts: Shape, **more: Any) -> Shape:
    return {"model_type": family, **{key: value for part in parts for key, value in part.items()}, **more}


SHAPES: dict[str, Shape] = {
    **{name: _of(name, COMMON) for name in ("bert", "electra", "albert", "phi", "gpt_neox", "biogpt")},
    "stablelm": _of("stablelm", COMMON, num_key_value_heads=4),
    **{name: _of(name, COMMON, pad_token_id=1) for name in ("roberta", "xlm-roberta", "camembert")},
    **{name: _of(name, DECODER) for name in ("llama", "qwen2", "qwen3", "gemma", "olmo2", "granite", "phi3", "glm4")},
    **{name: _of(name, DECODER, SEEN) for name in ("mistral", "starcoder2", "gemma2", "gemma3_text")},
    **{name: _of(name, DECODER, SEEN, EXPERTS) for name in ("mixtral", "qwen3_moe", "gpt_oss")},
    **{name: _of(name, COMMON, LATENT) for name in ("deepseek_v2", "deepseek_v3")},
    "gpt2": {"model_type": "gpt2", "vocab_size": 640, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256},
    "opt": _of("opt", COMMON, ffn_dim=48, word_embed_proj_dim=32),
    "modernbert": _of("modernbert", COMMON, local_attention=160, cls_token_id=5, sep_token_id=6),
    "modernbert-window": _of("modernbert", COMMON, local_attention=32, cls_token_id=5, sep_token_id=6),
    "nanochat": _of("nanochat", DECODER),
    "gemma3-bidirectional": _of("gemma3_text", DECODER, sliding_window=300, use_bidirectional_attention=True),
    "qwen3_moe-dense0": _of("qwen3_moe", DECODER, EXPERTS, mlp_only_layers=[0]),
    "llama4": _of(
        "llama4_text",
        DECODER,
        EXPERTS,
        intermediate_size_mlp=48,
        attention_chunk_size=80,
        floor_scale=8192,
        attn_temperature_tuning=True,
    ),
    "llama4-floor": _of("llama4_text", DECODER, EXPERTS, intermediate_size_mlp=48, floor_scale=64),
    "phi3-longrope": _of(
        "phi3",
        DECODER,
        original_max_position_embeddings=43,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [4.0] * 4,
            "original_max_position_embeddings": 43,
            "factor": 6.0,
        },
    ),
    "mamba": _of("mamba", {"vocab_size": 640, "hidden_size": 32, "num_hidden_layers": 4, "pad_token_id": 0}),
    "qwen3_next": _of("qwen3_next", DECODER, EXPERTS),
    "gemma3-wrapper": {
        "model_type": "gemma3",
        "text_config": _of("gemma3_text", DECODER, SEEN),
        "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 16, "num_hidden_layers": 1},
    },
}

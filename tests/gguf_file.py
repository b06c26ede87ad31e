"""A tiny Llama as a GGUF file, written with the package `gguf`: random Q4_1 weights and a tokenizer of bytes."""

from pathlib import Path

import gguf
import numpy as np

HIDDEN, LAYERS, HEADS, KV_HEADS, INSIDE = 64, 3, 2, 1, 96


def byte_tokens() -> list[str]:
    """The letters that byte-level tokenizers write for the 256 bytes (GPT-2)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(256 + others.index(byte)) if byte in others else chr(byte) for byte in range(256)]


def write_gguf(path: Path, seed: int = 0, architecture: str = "llama", without: str = "nothing") -> Path:
    """Write the file; `without`: leave out the tensors of names with this text. Returns `path`."""
    rng = np.random.default_rng(seed)
    tokens = [*byte_tokens(), "<s>", "</s>", "th", "the"]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INSIDE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 256 + [3, 3, 1, 1])
    writer.add_token_merges(["t h", "th e"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    key_width = HIDDEN * KV_HEADS // HEADS
    shapes = {"attn_q": (HIDDEN, HIDDEN), "attn_k": (key_width, HIDDEN), "attn_v": (key_width, HIDDEN)}
    shapes |= {"attn_output": (HIDDEN, HIDDEN), "ffn_gate": (INSIDE, HIDDEN), "ffn_up": (INSIDE, HIDDEN)}
    shapes |= {"ffn_down": (HIDDEN, INSIDE)}
    matrices = {f"blk.{n}.{name}.weight": shape for n in range(LAYERS) for name, shape in shapes.items()}
    matrices["token_embd.weight"] = (len(tokens), HIDDEN)
    norms = [f"blk.{n}.{kind}_norm.weight" for n in range(LAYERS) for kind in ("attn", "ffn")]
    for name in [*norms, "output_norm.weight"]:
        writer.add_tensor(name, np.ones(HIDDEN, np.float32))
    kind = gguf.GGMLQuantizationType.Q4_1
    for name, shape in matrices.items():
        if without not in name:
            weights = rng.normal(size=shape).astype(np.float32) * 0.2
            writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

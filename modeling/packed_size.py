"""What a 4-bit weight takes: nf4 codes, and their block scales quantised once more (double quantisation).

Dettmers et al., QLoRA (2023), §3: 64 codes share a scale, 256 scales share a scale of theirs.
"""

BLOCK = 64
SCALES = 256
TABLES = 4 * (16 + 256 + 1)
"""Bytes of one module's code tables and of the mean of its scales, all float32."""


def packed_bytes(elements: int) -> int:
    """Bytes of one packed weight matrix of `elements`: about 0.516 per element."""
    blocks = -(-elements // BLOCK)
    return -(-elements // 2) + blocks + 4 * -(-blocks // SCALES) + TABLES

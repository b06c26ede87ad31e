"""A ragged batch that the packings are compared on."""

from collections.abc import Callable

import pytest

from equipoise.data.batches import Slate, SlateBatch, build_batch


@pytest.fixture(scope="module")
def batch(make_slate: Callable[..., Slate]) -> SlateBatch:
    """Slates with prefixes and candidates of many lengths, one of them cut into rows that repeat its prefix."""
    slates = [
        make_slate(0, [5, 3, 7, 1, 4, 6], prefix=9),
        make_slate(1, [2], prefix=3),
        make_slate(2, [4, 4, 4, 9, 1], prefix=14),
        make_slate(3, [3, 3], prefix=1),
    ]
    packed = build_batch(slates, 30, pad_id=0)
    assert packed.input_ids.shape[0] == 6
    return packed

"""Groups of slates that fill a token budget with little padding."""

from collections.abc import Sequence


def token_groups(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Group slates so that the padded tokens of a group, its slates × its longest, are at most `most`.

    Args:
        sizes: tokens of each slate.
        most: padded tokens of a group; a longer slate stands alone.

    Returns:
        indices into `sizes`, every one once, the longest slates first.
    """
    groups: list[list[int]] = []
    room = 0
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        if not room:
            groups.append([])
            room = max(1, most // sizes[index])
        groups[-1].append(index)
        room -= 1
    return groups

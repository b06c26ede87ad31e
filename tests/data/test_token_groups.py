"""Groups of slates within a token budget."""

from hypothesis import given
from hypothesis import strategies as st

from equipoise.data.token_groups import token_groups


def test_groups_by_hand() -> None:
    assert token_groups([10, 50, 20, 30, 120], 100) == [[4], [1, 3], [2, 0]]
    assert token_groups([], 100) == []


@given(st.lists(st.integers(1, 200), max_size=40), st.integers(1, 300))
def test_all_are_there_once_and_no_group_is_over_the_budget(sizes: list[int], most: int) -> None:
    groups = token_groups(sizes, most)
    assert sorted(index for group in groups for index in group) == list(range(len(sizes)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(sizes[index] for index in group) <= most

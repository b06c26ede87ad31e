"""Which groups of candidates objectives disagree about: summed over backwards, kept in checkpoints, told in words."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from equipoise.common.errors import UserError
from equipoise.data.batches import Slate, build_batch
from equipoise.evaluation.balance.conflict_groups import group_sentences, read_conflicts
from equipoise.modeling.boundary import BoundaryGradients, NonFiniteGuard, StepContext, gram_matrix
from equipoise.modeling.model import SlateModel
from equipoise.train.balancing.conflict_map import ConflictMap
from equipoise.train.balancing.conflict_rows import FILE, rows_of, write_rows
from equipoise.train.world import World

NAMES = ("a", "b")


def add(
    found: ConflictMap,
    values: list[list[float]],
    groups: dict[str, torch.Tensor],
    trunk: list[list[float]] | None = None,
    finite: tuple[bool, bool] = (True, True),
) -> None:
    """Take in gradients of two objectives at the outputs, and at the boundary, one token of one number per candidate,
    the same where nothing else is said."""
    context = StepContext(groups=groups)
    context.guard.wanted = {name: torch.tensor(each) for name, each in zip(NAMES, values, strict=True)}
    parts, owner = tuple(torch.tensor(each)[:, None] for each in trunk or values), torch.arange(len(values[0]))
    found.add(BoundaryGradients(torch.zeros(1), parts, torch.tensor(finite), lambda part: (part, owner)), context)


def test_cosines_and_z_are_those_of_the_groups_candidates() -> None:
    found = ConflictMap(NAMES, {"colour": ["red", "blue", "none"]}, World())
    add(found, [[1.0, 2.0, 3.0], [1.0, -2.0, 1.0]], {"colour": torch.tensor([0, 1, 1])}, trunk=[[1.0] * 3, [0, 2, 0]])
    add(found, [[1.0], [-4.0]], {"colour": torch.tensor([1])}, trunk=[[1.0], [0.0]])
    red, blue = rows_of(NAMES, "colour", ["red", "blue", "none"], found.sums()["colour"])
    assert (red["value"], red["candidates"], red["cosine"], red["z"]) == ("red", 1, 1.0, 1.0)
    products = np.array([-4.0, 3.0, -4.0])  # of the three blue ones
    assert (blue["value"], blue["candidates"]) == ("blue", 3)
    assert blue["cosine"] == pytest.approx(products.sum() / np.sqrt((4 + 9 + 1) * (4 + 1 + 16)))
    assert blue["z"] == pytest.approx(products.sum() / np.sqrt((products**2).sum()))
    assert red["trunk_cosine"] is None and red["trunk_z"] is None  # the second wants nothing of the trunk there
    assert blue["trunk_cosine"] == pytest.approx(1 / np.sqrt(3)) and blue["trunk_z"] == 1.0


def test_a_gradient_that_is_not_finite_stays_out() -> None:
    found = ConflictMap(NAMES, {"colour": ["red"]}, World())
    codes = {"colour": torch.zeros(2, dtype=torch.int64)}
    add(found, [[1.0, 1.0], [1.0, torch.nan]], codes, trunk=[[1.0, 1.0], [1.0, 1.0]], finite=(True, False))
    (counts, products, _), (trunk_counts, trunk_products, _) = found.sums()["colour"]
    assert counts[0].tolist() == [[2, 1], [1, 1]] and products[0].tolist() == [[2, 1], [1, 1]]
    assert trunk_counts[0].tolist() == [[2, 0], [0, 0]] and trunk_products[0].tolist() == [[2, 0], [0, 0]]


def test_blocked_objectives_want_nothing() -> None:
    guard, x = NonFiniteGuard(), torch.ones(3, requires_grad=True)
    guard.block(["b"])
    (guard("a", 2 * x, of_candidates=True).sum() + guard("b", x, of_candidates=True).sum()).backward()
    assert guard.wanted.keys() == {"a"} and guard.wanted["a"].tolist() == [1, 1, 1]


def test_a_resumed_run_goes_on_with_its_sums() -> None:
    codes = {"colour": torch.tensor([0, 1])}
    whole, first, second = (ConflictMap(NAMES, {"colour": ["red", "blue"]}, World()) for _ in range(3))
    for number in range(4):
        for each in (whole, first if number < 2 else second):
            add(each, [[1.0, float(number)], [2.0, -1.0]], codes)
        if number == 1:
            second.restore(first.state())
    np.testing.assert_array_equal(second.sums()["colour"], whole.sums()["colour"])
    other = ConflictMap(NAMES, {"colour": ["green", "blue"]}, World())
    other.restore(first.state())  # of other groups: begun anew
    assert not other.sums()["colour"].any()


@pytest.mark.parametrize("attention", ["split", "sdpa"])
@pytest.mark.parametrize("scope", ["all", "candidates"])
def test_candidates_are_found_in_every_packing(
    attention: str, scope: str, make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate]
) -> None:
    """The gradient of a loss that reads one candidate alone stands at that candidate's tokens, and at its prefix's."""
    model = make_model("llama", attention=attention, scope=scope)
    batch = build_batch([make_slate(20, [3, 4, 2]), make_slate(21, [5, 1], row=1)], 64, 0)
    seen: list[torch.Tensor] = []
    for chosen in range(5):
        step = StepContext(lambda gradients, context: seen.append(gradients.of_candidates(5)) or [1.0] * 3)
        outputs = model.score(batch.model_inputs(), step)
        sum(outputs[name][chosen] * factor for name, factor in (("ctr", 1.0), ("cvr", 2.0))).backward()
        of_chosen = seen[-1][chosen]
        others = seen[-1].clone()
        others[chosen] = 0
        assert (of_chosen.diagonal()[:2] > 0).all() and of_chosen[2, 2] == 0
        assert others.abs().max() <= 1e-12 * of_chosen.abs().max()


def test_with_the_prefix_they_make_up_the_whole_matrix(
    make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate]
) -> None:
    model, seen = make_model("llama"), []
    batch = build_batch([make_slate(22, [3, 4]), make_slate(23, [2, 2, 5], row=1)], 64, 0)

    def read(gradients: BoundaryGradients, context: StepContext) -> list[float]:
        prefixes = [value.reshape(-1)[-2 * 9 * 32 :] for value in gradients.values]
        seen.append((gradients.gram(), gradients.of_candidates(5).sum(0) + gram_matrix(prefixes)))
        return [1.0] * 3

    outputs = model.score(batch.model_inputs(), StepContext(read))
    sum(outputs[name].square().sum() for name in ("ctr", "cvr", "diversity")).backward()
    torch.testing.assert_close(*seen[0], rtol=1e-4, atol=1e-9)


def test_what_surely_conflicts_is_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    found = ConflictMap(NAMES, {"colour": ["red", "blue"], "size": ["s", "l"]}, World())
    first = rng.normal(size=400)
    second = 0.4 * first * np.where(np.arange(400) % 2, -1, 1) + rng.normal(size=400)
    codes = {"colour": torch.arange(400) % 2, "size": torch.arange(400) % 4 // 2}
    add(found, [first.tolist(), second.tolist()], codes)
    found.write(tmp_path)
    conflicts = read_conflicts(tmp_path)
    assert [(each.value, each.sure) for each in conflicts if each.sure] == [("blue", True)]
    assert conflicts[0].value == "blue" and -0.6 < conflicts[0].cosine < -0.2
    told = group_sentences(conflicts)
    assert told[0].startswith("By colour, a and b disagree about blue (cosine −0.")
    assert told[1] == "By size, no two objectives surely disagree about any group."


def test_chance_is_rarely_called_a_conflict(tmp_path: Path) -> None:
    """In 40 maps of 50 groups of noise, 5 % may hold one."""
    rng, called = np.random.default_rng(1), 0
    codes = {"group": torch.arange(2000) % 50}
    for _ in range(40):
        found = ConflictMap(NAMES, {"group": [str(n) for n in range(50)]}, World())
        add(found, [rng.normal(size=2000).tolist(), rng.normal(size=2000).tolist()], codes)
        found.write(tmp_path)
        called += any(each.sure for each in read_conflicts(tmp_path))
    assert called <= 6


def test_without_a_map_there_is_nothing_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    assert read_conflicts(tmp_path) == [] and group_sentences([]) == []
    write_rows(tmp_path, [])
    assert read_conflicts(tmp_path) == []
    (tmp_path / FILE).write_text('[{"value": 3}]')
    with pytest.raises(UserError, match=r"conflicts\.json is damaged"):
        read_conflicts(tmp_path)

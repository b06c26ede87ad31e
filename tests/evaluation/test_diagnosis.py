"""The diagnosis of hand-made metrics whose answers are known."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equipoise.common.errors import UserError
from equipoise.evaluation.balance.diagnosis import History, conclusions, diagnose, read_history, signed

NAMES = ("ctr", "cvr", "fairness")
Write = Callable[[Sequence[dict[str, Any]]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Records (without their step: 10, 20, …) → a run folder with these metrics."""

    def build(records: Sequence[dict[str, Any]]) -> Path:
        lines = [json.dumps({"step": 10 * (n + 1), "seconds": n, **record}) for n, record in enumerate(records)]
        (tmp_path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
        return tmp_path

    return build


def history_of(series: dict[str, Sequence[float]]) -> History:
    count = len(next(iter(series.values())))
    last = 10 * np.arange(1, count + 1)
    return History(last - 9, last, {key: np.array(values, dtype=np.float64) for key, values in series.items()})


def test_reading_knows_steps_gaps_and_torn_lines(write: Write) -> None:
    run = write([{"balance/cosine/ctr-cvr": 0.5, "train/lr": 1.0}, {"balance/length": None}, {"balance/length": 2.0}])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "valid/ctr/auc": 0.5}\n')  # no balance record: it must not cut the next one's span
        file.write('{"step": 35, "balance/length": 3.0}\n{"step": 40, "balance/le')
    history = read_history(run)
    assert history.first.tolist() == [1, 11, 21, 31]
    assert history.last.tolist() == [10, 20, 30, 35]
    assert history.spans.tolist() == [10, 10, 10, 5]
    np.testing.assert_array_equal(history.series("balance/cosine/ctr-cvr"), [0.5, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(history.series("balance/length"), [np.nan, np.nan, 2, 3])
    assert "train/lr" not in history.values
    assert np.isnan(history.series("balance/norm/none")).all()
    assert history.mean(history.series("balance/length")) == pytest.approx((2 * 10 + 3 * 5) / 15)


def test_what_cannot_be_read_is_refused(write: Write, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no metrics\.jsonl"):
        read_history(tmp_path)
    with pytest.raises(UserError, match="holds no balance records"):
        read_history(write([{"train/lr": 1.0}]))


def test_running_mean_is_centred_over_a_tenth_and_weighs_steps() -> None:
    few = History(np.array([1, 11, 21]), np.array([10, 20, 25]), {})
    np.testing.assert_allclose(few.running_mean(np.array([1.0, 3.0, 6.0])), [2, 70 / 25, 60 / 15])
    np.testing.assert_allclose(few.running_mean(np.array([1.0, np.nan, 6.0])), [1, 40 / 15, 6])
    many = history_of({"x": np.arange(100.0)})  # half a window is 5
    assert many.running_mean(np.arange(100.0))[50] == pytest.approx(50)
    assert many.running_mean(np.arange(100.0))[0] == pytest.approx(2.5)
    assert np.isnan(many.running_mean(np.full(100, np.nan))).all()


@pytest.mark.parametrize(
    ("cosines", "since"),
    [
        ([0.5] * 6 + [-0.5] * 6, 61),
        ([-0.5] * 12, 1),
        ([0.5] * 12, None),
        ([-0.5] * 6 + [0.5] * 6, None),  # they have made peace
        ([-0.5] * 4 + [0.5] * 4 + [-0.5] * 4, 81),
        ([0.5] * 6 + [-0.5] * 3 + [0.4] + [-0.5] * 3, 61),  # one lapse, and the mean stays below
        ([0.5] * 4 + [np.nan] * 4 + [-0.5] * 4, 81),  # not measured is no conflict
        ([np.nan] * 12, None),
    ],
)
def test_since_when(cosines: list[float], since: int | None) -> None:
    history = history_of({"balance/cosine/ctr-cvr": cosines})
    assert history.negative_since(history.series("balance/cosine/ctr-cvr")) == since


def test_pairs_have_thirds_conflicts_and_layers(write: Write) -> None:
    records = []
    for n in range(9):
        record = {
            "balance/cosine/ctr-cvr": 0.3,
            "balance/conflict/ctr-cvr": 0.0,
            "balance/cosine/cvr-fairness": [0.2, 0.2, 0.2, -0.2, -0.2, -0.2, -0.4, -0.5, -0.6][n],
            "balance/conflict/cvr-fairness": [0, 0, 0, 0.5, 0.5, 0.5, 1, 1, 1][n],
        }
        if n in (0, 4, 8):
            late = n > 0
            record |= {f"balance/layer-{layer}/cosine/cvr-fairness": late * -0.1 * layer + 0.2 for layer in range(12)}
            record |= {"balance/layer-0/conflict_rate": 0.0}
        if n == 0:
            record["balance/layer-1/cosine/cvr-fairness"] = -0.99  # before the conflict
        records.append(record)
    diagnosis = diagnose(read_history(write(records)), NAMES)
    assert diagnosis.steps == 90
    assert [(p.first, p.second) for p in diagnosis.pairs] == [("cvr", "fairness"), ("ctr", "cvr"), ("ctr", "fairness")]
    conflict, peace, unknown = diagnosis.pairs
    assert (conflict.since, conflict.clear, conflict.conflicting) == (31, True, True)
    np.testing.assert_allclose([conflict.early, conflict.late, conflict.conflicts], [0.2, -0.5, 0.5])
    assert conflict.cosine == pytest.approx(-1.5 / 9)
    np.testing.assert_allclose(list(conflict.layers.values()), 0.2 - 0.1 * np.arange(12))
    assert conflict.worst_layer == 11  # neither the probe before the conflict nor "layer-1" for "layer-11"
    assert (peace.since, peace.conflicting, peace.layers, peace.worst_layer) == (None, False, {}, None)
    assert np.isnan(unknown.late) and unknown.since is None and not unknown.conflicting
    told = conclusions(diagnosis)
    assert told[0] == "cvr and fairness conflict since step 31 (cosine −0.50), most in trunk layer 11."


def test_noise_around_zero_is_no_conflict() -> None:
    history = history_of({"balance/cosine/ctr-cvr": [0.1, -0.2, 0.1] + [0.3, -0.4, -0.1] * 3})
    pair = diagnose(history, ("ctr", "cvr")).pairs[0]
    assert pair.since is not None and not pair.clear and not pair.conflicting
    # One record has no spread to judge by, two can do.
    for cosines, conflicting in (
        ([-0.5], False),
        ([-0.5, -0.4], True),
        ([-0.5, -0.01, 0.1], False),
        ([-0.5] * 4, True),
    ):
        assert (
            diagnose(history_of({"balance/cosine/ctr-cvr": cosines}), ("ctr", "cvr")).pairs[0].conflicting
            == conflicting
        )


def test_a_slight_cosine_is_no_conflict_however_certain() -> None:
    for cosine, conflicting in ((-0.005, False), (-0.02, True)):
        (pair,) = diagnose(history_of({"balance/cosine/ctr-cvr": [cosine] * 9}), ("ctr", "cvr")).pairs
        assert (pair.since, pair.clear, pair.conflicting) == (1, True, conflicting)


def test_objectives_have_shares_and_what_the_step_does() -> None:
    history = history_of(
        {
            "balance/weight/ctr": [2, 2],
            "balance/norm/ctr": [1, 3],
            "balance/along/ctr": [0.9, 0.7],
            "balance/against/ctr": [0, 0],
            "balance/zero/ctr": [0, 0],
            "balance/nonfinite/ctr": [0, 0],
            "balance/weight/cvr": [-1, 0],
            "balance/norm/cvr": [2, np.nan],
            "balance/along/cvr": [-0.2, -0.4],
            "balance/against/cvr": [0.5, 1.0],
            "balance/zero/cvr": [0.25, 0.25],
            "balance/nonfinite/cvr": [0.0, 0.5],
        }
    )
    ctr, cvr = diagnose(history, ("ctr", "cvr")).objectives
    assert (ctr.weight, ctr.norm, ctr.share) == (2, 2, 0.75)  # (2·1 / (2·1 + 1·2) + 1) / 2
    assert (cvr.weight, cvr.norm, cvr.share) == (-0.5, 2, 0.25)
    assert (ctr.against, ctr.against_since, cvr.against, cvr.against_since) == (0, None, 0.75, 1)
    assert cvr.along == pytest.approx(-0.3)
    assert (cvr.zero, cvr.nonfinite) == (0.25, 0.25)
    assert conclusions(diagnose(history, ("ctr", "cvr")))[1:] == [
        "The step goes against cvr in 75% of backwards (on the mean since step 1).",
        "cvr had no gradient in 25% of backwards.",
        "The gradient of cvr was not finite in 25.0% of backwards.",
    ]


def test_records_without_what_is_asked_for_do_no_harm() -> None:
    history = history_of({"balance/length": [1.0]})
    diagnosis = diagnose(history, NAMES)
    assert np.isnan([pair.cosine for pair in diagnosis.pairs]).all()
    assert np.isnan([objective.share for objective in diagnosis.objectives]).all()
    assert conclusions(diagnosis) == [
        "No two objectives were ever in conflict.",
        "The step never went against any objective.",
    ]
    alone = diagnose(history, ("ctr",))
    assert not alone.pairs
    assert conclusions(alone)[0] == "There is one objective, so nothing can conflict."


def test_conclusions_tell_the_worst_and_count_the_rest() -> None:
    names = tuple("abcde")
    pairs = [f"{x}-{y}" for i, x in enumerate(names) for y in names[i + 1 :]]
    series = {f"balance/cosine/{pair}": [-0.1 - 0.05 * n] * 6 for n, pair in enumerate(pairs)}
    series |= {f"balance/against/{name}": [0.1 * n] * 6 for n, name in enumerate(names)}
    on_pairs, on_step = conclusions(diagnose(history_of(series), names))
    assert on_pairs.startswith("d and e conflict since step 1 (cosine −0.55); c and e conflict")
    assert on_pairs.endswith("; so do 7 more pairs.")
    told = "e in 40% of backwards, d in 30% of backwards, c in 20% of backwards and 1 more less often"
    assert on_step == f"The step goes against {told}."
    del series["balance/against/b"], series["balance/against/c"], series["balance/against/d"]
    series["balance/against/e"] = [0.004] * 6
    assert "most often e, in 0.4% of backwards" in conclusions(diagnose(history_of(series), names))[1]


def test_names_that_hold_the_separator_are_read_from_the_config() -> None:
    names = ("a", "a-b", "b")
    series = {"balance/cosine/a-a-b": [0.1], "balance/cosine/a-b": [0.2], "balance/cosine/a-b-b": [0.3]}
    found = {(p.first, p.second): p.cosine for p in diagnose(history_of(series), names).pairs}
    assert found == {("a", "a-b"): 0.1, ("a", "b"): 0.2, ("a-b", "b"): 0.3}


def test_numbers_are_written_with_a_true_minus() -> None:
    assert [signed(x) for x in (-0.256, 0.0, 1.0, float("nan"))] == ["−0.26", "+0.00", "+1.00", "–"]

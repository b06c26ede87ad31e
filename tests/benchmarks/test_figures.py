"""The shared form of benchmark results, and turns that hit all alike."""

import json
import math

import pytest

from benchmarks.figures import figure, ratio, report, take_turns, write


def test_a_record_names_machine_versions_commit_and_figures(tmp_path):
    entries = [figure("a", 1, "ms", method="mgda"), figure("b", math.nan, "ratio")]
    path = tmp_path / "folder" / "figures.json"
    write(path, report("example", entries, quick=True))
    record = json.loads(path.read_text())
    assert {"benchmark", "date", "commit", "machine", "versions", "settings", "figures"} == set(record)
    assert record["machine"]["cpu"] and record["machine"]["cores"] >= 1 and record["machine"]["memory_gib"] > 0
    assert record["versions"]["torch"] and record["versions"]["python"]
    assert record["figures"][0] == {"name": "a", "value": 1.0, "unit": "ms", "method": "mgda"}
    assert record["figures"][1]["value"] is None
    assert list(path.parent.iterdir()) == [path]


def test_two_figures_of_one_name_are_refused():
    with pytest.raises(ValueError, match="same name: a"):
        report("example", [figure("a", 1, "ms"), figure("a", 2, "ms")])


def test_functions_take_turns_and_each_goes_first():
    calls: list[str] = []
    seconds = take_turns({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=3, warmup=1)
    rounds = ["".join(calls[i : i + 3]) for i in range(0, 12, 3)]
    assert sorted(rounds[0]) == ["a", "b", "c"]
    assert rounds[1:] == ["abc", "bca", "cab"]
    assert {name: values.shape for name, values in seconds.items()} == dict.fromkeys("abc", (3,))


def test_the_ratio_is_the_median_over_rounds():
    import numpy as np

    found = ratio({"a": np.array([2.0, 9.0, 3.0]), "b": np.array([1.0, 1.0, 3.0])}, "a", "b")
    assert found["value"] == 2.0 and found["rounds"] == 3

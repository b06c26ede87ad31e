"""The shop of the benchmark of nights: demand drifts from day to day, and a poisoned day has its labels elsewhere."""

from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import daily, daily_nights, daily_spark
from benchmarks.daily_shop import Size, day_of, poison, shop_config, write_shop
from benchmarks.figures import report
from equipoise.common.errors import UserError

SIZE = Size(before=2, nights=1, requests=60, shoppers=30, items=20, steps=1)


def test_the_shop_and_its_poison(tmp_path: Path) -> None:
    write_shop(tmp_path, SIZE)
    path = tmp_path / "impressions.parquet"
    table = pq.read_table(path).to_pandas()
    assert set(table.timestamp.dt.date) == {day_of(number) for number in range(SIZE.days)}
    assert (table.groupby("request_id").item_id.nunique() == 12).all()  # no request is mixed of both demands
    chosen = day_of(SIZE.days - 1)
    poison(path, chosen)
    after = pq.read_table(path).to_pandas()
    of_day = (table.timestamp.dt.date == chosen).to_numpy()
    labels = ["click", "conversion"]
    assert table[~of_day].equals(after[~of_day])
    assert table[of_day][labels].sum().equals(after[of_day][labels].sum())
    assert (after[of_day].conversion <= after[of_day].click).all()
    assert np.corrcoef(table[of_day].click, after[of_day].click)[0, 1] < 0.5


def test_unknown_parts_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        daily.main(["--json", str(tmp_path / "out.json"), "--only", "days"])
    assert "there is no part 'days'" in capsys.readouterr().err


def test_a_shop_of_another_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "size.json").write_text("{}")
    with pytest.raises(UserError, match="holds a shop of another size"):
        daily_nights.measure(tmp_path, quick=True)


def test_a_stopped_training_from_nothing_is_timed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def night(config: object, day: date, state: Path) -> None:
        seen.append(sorted(path.name for path in state.glob("*")))

    monkeypatch.setattr(daily_nights, "run_night", night)
    config = shop_config(tmp_path, SIZE, quick=False)
    state = tmp_path / "anew"
    (state / "runs").mkdir(parents=True)
    daily_nights._from_nothing(config, day_of(2), state)
    (state / "nights").mkdir(parents=True)
    (state / "nights" / "2026-01-03.json").touch()
    daily_nights._from_nothing(config, day_of(2), state)
    assert seen == [[], ["nights"]]


def test_spark_and_duckdb_on_two_sets_have_figures_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daily_spark, "_coupons", lambda folder: {"source": "tables"})
    monkeypatch.setattr(daily_spark, "simulated", lambda folder, rows: {"source": "tables"})
    monkeypatch.setattr(daily_spark.DataConfig, "model_validate", lambda settings: settings)
    monkeypatch.setattr(daily_spark, "prepare_apart", lambda config: {"seconds": 1.0, "mb": 2.0, "rows": 3})
    differ = {tmp_path / "spark" / "simulated_by_spark"}
    monkeypatch.setattr(daily_spark, "differences", lambda one, other: ["a row"] if other in differ else [])
    figures = daily_spark.measure(tmp_path, quick=False)
    values = {each["name"]: each["value"] for each in report("daily", figures)["figures"]}
    assert not values["spark_equal"] and values["duckdb_complete_journey_seconds"] == 1.0
    assert len(values) == 1 + 2 * 2 * 2

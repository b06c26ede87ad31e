"""The shop of the benchmark of nights: demand drifts from day to day, and a poisoned day has its labels elsewhere."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import daily
from benchmarks.daily_shop import Size, day_of, poison, write_shop

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

"""Calibration after training: what it corrects, when it is switched off, and that it changes no order."""

import json
from pathlib import Path

import numpy as np
import pytest

from equipoise.common.calibration import Calibration, with_calibration
from equipoise.common.errors import UserError
from equipoise.export.golden_check import calibrated
from equipoise.modeling.adapter_store import TENSORS, adapters_hash
from equipoise.train.calibration import (
    FILE_NAME,
    FITS,
    Rows,
    calibrate,
    read_calibration_lines,
    read_calibrations,
    write_calibrations,
)


def _rows(count: int, slope: float, shift: float, seed: int = 0) -> Rows:
    """Labels drawn from slope · logit + shift, the logits, and users of ten rows each."""
    generator = np.random.default_rng(seed)
    logit = generator.normal(-1, 1.5, count)
    label = (generator.random(count) < 1 / (1 + np.exp(-slope * logit - shift))).astype(np.float64)
    return label, logit, np.arange(count) // 10, None


def _loss(label: np.ndarray, logit: np.ndarray) -> float:
    return float(np.mean(np.logaddexp(0, logit) - label * logit))


@pytest.mark.parametrize("method", FITS)
def test_it_corrects_what_is_wrong_and_keeps_the_order(method: str) -> None:
    record = calibrate(_rows(4000, 0.5, 1.0), method, seed=1)
    assert record["kept"] and record["why"].startswith("on:")
    found = Calibration.of(record["calibration"])
    assert found.to_json() == record["calibration"]
    label, logit, *_ = _rows(4000, 0.5, 1.0, seed=2)
    assert _loss(label, found(logit)) < _loss(label, logit) - 0.05
    assert _loss(label, found(logit)) < _loss(label, 0.5 * logit + 1) + 0.005
    far = np.array([-50.0, -9.0, -1.0, 0.0, 9.0, 50.0])
    assert (np.diff(found(far)) > 0).all()
    about = {"logit_offset": 0.25, "calibration": record["calibration"]}
    for value in far:
        expected = 1 / (1 + np.exp(-found(value + 0.25)))
        assert calibrated(about, float(value)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("method", FITS)
def test_it_is_off_where_nothing_is_to_be_corrected_or_known(method: str) -> None:
    record = calibrate(_rows(300, 1.0, 0.0, seed=3), method, seed=1)
    assert not record["kept"] and "not below" in record["why"] and "calibration" not in record
    label, logit, user, _ = _rows(300, 1.0, 0.0)
    for few in ((label[:30], logit[:30], user[:30]), (np.zeros(300), logit, user), (label[:0], logit[:0], user[:0])):
        assert "too few" in calibrate((*few, None), method, seed=1)["why"]


@pytest.mark.parametrize("method", FITS)
def test_a_row_of_weight_2_counts_as_two(method: str) -> None:
    label, logit, user, _ = _rows(2000, 0.5, 1.0)
    times = 1 + (np.arange(2000) // 10) % 3
    weighed = calibrate((label, logit, user, times.astype(float)), method, seed=1)
    repeated = calibrate((*(np.repeat(values, times) for values in (label, logit, user)), None), method, seed=1)
    for when in ("before", "after"):
        assert weighed["log_loss"][when] == pytest.approx(repeated["log_loss"][when], abs=1e-5)
    points = np.linspace(-4, 3, 15)
    of_weighed, of_repeated = (Calibration.of(record["calibration"])(points) for record in (weighed, repeated))
    np.testing.assert_allclose(of_weighed, of_repeated, atol=1e-3)


def test_a_score_that_is_upside_down_is_not_turned_around() -> None:
    record = calibrate(_rows(2000, -1.0, 0.0), "platt", seed=1)
    assert not record["kept"]


def test_it_holds_for_its_adapters_alone(tmp_path: Path) -> None:
    for name in ("best", "adapters"):
        (tmp_path / name).mkdir()
        (tmp_path / name / TENSORS).write_bytes(name.encode())
    assert read_calibrations(tmp_path, tmp_path / "best") == {}
    rows = {"ctr": _rows(4000, 0.5, 1.0), "cvr": _rows(300, 1.0, 0.0, seed=3)}
    found_of = {name: calibrate(each, "platt", 1) for name, each in rows.items()}
    write_calibrations(tmp_path, found_of, adapters_hash(tmp_path / "best"))
    found = read_calibrations(tmp_path, tmp_path / "best")
    assert set(found) == {"ctr"} and read_calibrations(tmp_path, tmp_path / "adapters") == {}
    scores = {"ctr": np.array([0.0]), "cvr": np.array([0.0]), "diversity": np.array([1.0])}
    after = with_calibration(scores, found)
    assert after["ctr"] == found["ctr"].intercept and after["cvr"] is scores["cvr"] and after["diversity"] == 1.0
    (tmp_path / FILE_NAME).write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        read_calibrations(tmp_path, tmp_path / "best")


def test_lines_tell_how_sure_a_calibration_is(tmp_path: Path) -> None:
    """Around the line of what is handed on, and twice as far from each other on a quarter of the users."""
    spreads = []
    for count in (1000, 4000):
        record = calibrate(_rows(count, 0.5, 1.0), "platt", seed=1)
        lines = np.array(record["lines"])
        assert record["kept"] and lines.shape == (60, 2)
        np.testing.assert_allclose(lines.mean(0), [1, 0], atol=0.1)
        spreads.append(lines.std(0))
    assert (spreads[0] / spreads[1] > 1.4).all() and (spreads[0] / spreads[1] < 2.9).all()
    off = calibrate(_rows(3000, 1.0, 0.0, seed=3), "platt", seed=1)
    assert len(off["lines"]) == 60  # how sure the logits are, though they stay as they are
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / TENSORS).write_bytes(b"of this run")
    rows = {"ctr": _rows(1000, 0.5, 1.0)}
    found_of = {name: calibrate(each, "platt", 1) for name, each in rows.items()}
    write_calibrations(tmp_path, found_of, adapters_hash(tmp_path / "adapters"))
    assert read_calibration_lines(tmp_path, tmp_path / "adapters")["ctr"] == calibrate(rows["ctr"], "platt", 1)["lines"]
    record = json.loads((tmp_path / FILE_NAME).read_text())
    del record["objectives"]["ctr"]["lines"]  # as older versions wrote it
    (tmp_path / FILE_NAME).write_text(json.dumps(record))
    assert read_calibration_lines(tmp_path, tmp_path / "adapters") == {}
    assert set(read_calibrations(tmp_path, tmp_path / "adapters")) == {"ctr"}

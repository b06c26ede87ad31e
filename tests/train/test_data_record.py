"""Data that were prepared anew after a training are not mistaken for those of the training."""

from pathlib import Path

import pytest

from equipoise.common.errors import UserError
from equipoise.data.manifest import Manifest, SplitCounts
from equipoise.train.data_record import FILE_NAME, refuse_other_data, write_data_record


def manifest(**hashes: str) -> Manifest:
    counts = dict.fromkeys(("requests", "slates", "impressions", "clicks", "conversions", "clicked_conversions"), 1)
    split = SplitCounts(**counts, first="2026-01-01", last="2026-01-02", files=[])
    return Manifest(
        source="tables", created="now", versions={}, prompt={}, history={}, counts={}, splits={"train": split},
        hashes=hashes,
    )  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_data_record(manifest(a="1", b="2"), tmp_path / "prepared", tmp_path)
    return tmp_path


def test_the_same_data_are_accepted_wherever_they_lie(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    refuse_other_data(run, manifest(a="1", b="2"), run / "prepared")
    refuse_other_data(run, manifest(a="1", b="2"), run / "moved", resumes=True)
    assert not caplog.text


@pytest.mark.parametrize("now", [{"a": "1", "b": "3"}, {"a": "1"}, {"a": "1", "b": "2", "c": "4"}])
def test_data_prepared_anew_are_refused(run: Path, now: dict[str, str]) -> None:
    name = "c" if "c" in now else "b"
    with pytest.raises(UserError, match=rf"prepared anew after .* \({name} differs\).*data\.folder=FOLDER"):
        refuse_other_data(run, manifest(**now), run / "prepared")
    with pytest.raises(UserError, match=rf"other data than .* \({name} differs\).*--overwrite"):
        refuse_other_data(run, manifest(**now), run / "elsewhere", resumes=True)


def test_other_data_that_are_asked_for_are_told(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    refuse_other_data(run, manifest(a="5"), run / "newer")
    assert f"{run / 'newer'} holds others (a differs)" in caplog.text


def test_a_run_that_does_not_say_is_accepted_with_a_note(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    (run / FILE_NAME).unlink()
    with caplog.at_level("INFO"):
        refuse_other_data(run, manifest(), run / "prepared")
    assert "does not say on which data" in caplog.text
    (run / FILE_NAME).write_text("{")
    with pytest.raises(UserError, match=r"data\.json cannot be read"):
        refuse_other_data(run, manifest(), run / "prepared")

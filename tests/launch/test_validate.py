"""`equipoise validate` refuses what prepare or train would refuse before any work, with one sentence and code 2."""

from pathlib import Path
from typing import Any

import pytest

from equipoise.launch.cli import main
from tests.tiny_run import run_settings, write_config


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return run_settings(tmp_path)


def _validate(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], *overrides: str
) -> tuple[int, str]:
    path = write_config(settings, tmp_path / "run.yaml")
    try:
        code = main(["validate", str(path), *overrides])
    except SystemExit as ended:
        code = ended.code
    captured = capsys.readouterr()
    return int(code or 0), captured.out + captured.err


def test_a_good_config_is_valid(settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = _validate(settings, tmp_path, capsys)
    assert (code, "is valid" in said, "note" in said) == (0, True, False), said


def test_tables_that_are_elsewhere_are_noted(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings["data"]["tables"] = {name: f"/elsewhere/{name}.parquet" for name in settings["data"]["tables"]}
    code, said = _validate(settings, tmp_path, capsys)
    assert code == 0 and "their columns were not checked" in said and "is valid" in said


BAD = {
    "data.tables.items=s3://bucket/items.parquet": "is no path of this machine",
    "data.tables.impressions=gs://bucket/x.parquet": "is no path of this machine",
    "output=s3://bucket/run": "is no path of this machine",
    "balancing.method=torchjd:ConFIG": "torchjd:ConFIG cannot be used",
    "balancing.method=torchjd:Nothing": "torchjd",
    "data.tables.items=gone.csv": "data.tables.items gone.csv does not exist",
    "data.prompt.item=['{titel}']": "has no column 'titel', which data.prompt.item reads (did you mean 'title'?)",
    "data.prompt.prefix=['{agee}']": "did you mean 'age'?",
    "data.prompt.context=['{n|often}']": "unknown filter 'often'",
    "data.fields=[seen_before, seen]": "has no column 'seen', which data.fields names",
    "data.features=[price]": "column 'price', which data.features names",
    "data.user_groups=[town]": "has no column 'town', which data.user_groups names",
    "data.split.column=part": "has no column 'part', which data.split.column names",
    "objectives.like={kind: binary, label: liked}": "has no column 'liked', which objectives.like.label names",
    "name=''": "name is an empty text",
    "data.fields=['']": "fields is an empty text",
    "train.lr=.inf": "finite",
    "train.lr=.nan": "not nan",
    "train.batch_size=99999999999999": "at most 2,147,483,647",
    "tokens.max_prefix=1000000000": "less than or equal to",
    "lora.rank=10000000": "less than or equal to",
    "train={lr: 1e-3, lr: 1e-4}": "key 'lr' stands in line 1",
    f"name={'[' * 3000}": "nested more than 40 deep",
}


@pytest.mark.parametrize("override", BAD, ids=range(len(BAD)))
def test_what_would_be_refused_later_is_refused_now(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str
) -> None:
    code, said = _validate(settings, tmp_path, capsys, override)
    assert code == 2 and BAD[override] in said, said
    assert said.count("\n") == 1 and "valid:" not in said


def test_mapped_headers_are_checked(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = Path(settings["data"]["tables"]["items"])
    header, _, rest = items.read_text().partition("\n")
    spoken = f"{header.replace('item_id', 'Artikelnr').replace('title', 'Größe')}\n{rest}"
    items.write_bytes(spoken.encode("cp1252") + b"x;" * 2_000_000 + b"\x81\n")  # of whose end no header says anything
    mapping = {"path": str(items), "columns": {"item_id": "Artikelnr", "title": "Größe"}, "encoding": "cp1252"}
    settings["data"]["tables"]["items"] = mapping
    code, said = _validate(settings, tmp_path, capsys)
    assert code == 0 and "is valid" in said, said
    faults = {
        "data.tables.items.columns.title=Grösse": "'Grösse', which data.tables.items.columns.title names (did you mean",
        "data.tables.items.formats={preis: german}": "no column 'preis', which data.tables.items.formats names",
        "data.tables.items.formats={title: klingon}": "'klingon' is no format",
        "data.tables.items.formats={title: '%Q'}": "'%Q' is no pattern of a moment",
        "data.tables.items.encoding=latin-99": "'latin-99' is no encoding",
        "data.tables.items.timezone=Mars/Olympus": "'Mars/Olympus' is no time zone",
        "data.tables.items.query=SELECT 1": "path and query exclude each other",
        "data.tables.items.formats={title: {yes: [ja], no: [Ja]}}": "'ja' means both yes and no",
    }
    for override, words in faults.items():
        code, said = _validate(settings, tmp_path, capsys, override)
        assert code == 2 and words in said and said.count("\n") == 1, said

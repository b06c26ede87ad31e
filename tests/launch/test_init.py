"""`equipoise init` on tables of three shops: each is told by its names and values, and what it writes is valid."""

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest

from equipoise.configs.load import load_config
from equipoise.configs.tables import TableFile
from equipoise.launch.cli import main
from tests.three_shops import SHOPS, write_shop


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as ended:
        code = ended.code
    captured = capsys.readouterr()
    return int(code or 0), captured.out + captured.err


@pytest.mark.parametrize("language", SHOPS)
def test_tables_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], language: str) -> None:
    shop = SHOPS[language]
    paths = write_shop(shop, tmp_path)
    out = tmp_path / "shop.yaml"
    code, said = command(capsys, "init", *reversed(paths.values()), "--out", out, "--yes")
    assert code == 0, said
    config = load_config(out)
    assert config.data.tables is not None
    files = config.data.tables.files
    assert {name: Path(file.path or "") for name, file in files.items()} == paths
    keys = ("timestamp", "user_id", "item_id", "click", "conversion")
    assert {k: files["impressions"].columns[k] for k in keys} == {k: shop.columns[k] for k in keys}
    request = files["impressions"].columns["request_id"]
    assert request == shop.columns.get("request_id", [shop.columns["user_id"], shop.columns["timestamp"]])
    named = {name: shop.columns[name] for name in ("title", "category", "brand", "price")}
    assert named.items() <= files["items"].columns.items()
    assert files["items"].formats == {"price": "french" if language == "fr" else "german"}
    moments = {"de": "%d.%m.%Y %H:%M", "fr": "%d/%m/%Y %H:%M:%S", "es": "epoch_milliseconds"}
    for table in ("impressions", "events"):
        assert files[table].formats["timestamp"] == moments[language]
    assert files["impressions"].formats.get("click") == (None if language == "es" else "yes_no")
    assert files["items"].encoding == ("cp1252" if language == "de" else "utf-8")
    assert set(config.objectives.active()) == {"ctr", "cvr", "diversity", "fairness"}
    assert [(rate.of, rate.by) for rate in config.data.rates] == [
        (label, [by]) for label in ("click", "conversion") for by in ("item_id", "user_id")
    ]
    assert config.data.comparison is not None and config.data.comparison.item == "title"
    assert config.objectives.ctr.prior.method == config.objectives.cvr.prior.method == "blend"
    assert config.data.user_groups == [shop.columns["group"]] and "price" in config.data.feature_names
    code, said = command(capsys, "init", *paths.values(), "--out", out, "--yes")
    assert code == 2 and "exists" in said


def test_without_trees_and_events_it_begins_as_a_regression(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_shop(SHOPS["es"], tmp_path)
    del paths["events"]
    monkeypatch.setattr("equipoise.data.propose.settings.find_spec", lambda name: None)
    code, said = command(capsys, "init", *paths.values(), "--out", tmp_path / "shop.yaml", "--yes")
    assert code == 0 and "note: priors are logistic regressions: with LightGBM" in said, said
    config = load_config(tmp_path / "shop.yaml")
    assert config.data.comparison is None and config.objectives.ctr.prior.method == "linear"


def test_what_hardly_anybody_did_begins_without_a_prior(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of one purchase no model can be fitted; one that nobody clicked is none of the chain's."""
    paths = write_shop(SHOPS["es"], tmp_path)
    with paths["impressions"].open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    clicked = [number for number, row in enumerate(rows) if row["le_gusto"] == "1"]
    bought = ["1" if number == clicked[0] or number not in clicked else "0" for number in range(len(rows))]
    _change(paths["impressions"], "se_lo_llevo", bought)
    code, said = command(capsys, "init", *paths.values(), "--out", tmp_path / "shop.yaml", "--yes")
    assert code == 0 and "note: cvr begins without a prior: fewer than 10 users have a conversion" in said, said
    config = load_config(tmp_path / "shop.yaml")
    assert config.objectives.ctr.prior.method == "blend" and config.objectives.cvr.prior is None


def _change(path: Path, column: str, values: list[str]) -> None:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row, value in zip(rows, [values[n % len(values)] for n in range(len(rows))], strict=True):
        row[column] = value
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_what_may_be_read_in_two_ways_is_asked_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_shop(SHOPS["es"], tmp_path)
    _change(paths["items"], "precio", ["2.972", "762", "429"])
    _change(paths["events"], "momento", ["03/04/2026 10:00", "05/06/2026 11:30"])
    start = ["init", *paths.values(), "--out", tmp_path / "shop.yaml", "--yes"]
    code, said = command(capsys, *start)
    assert (
        code == 2 and "which number is '2.972' next to '" in said and "--format 'items.price=german' for 2972" in said
    )
    code, said = command(capsys, *start, "--format", "items.price=german")
    assert code == 2 and "how is the moment '0" in said and "--format 'events.timestamp=%d/%m/%Y %H:%M'" in said
    code, said = command(
        capsys, *start, "--format", "items.price=german", "--format", "events.timestamp=%d/%m/%Y %H:%M"
    )
    assert code == 0, said
    tables = load_config(tmp_path / "shop.yaml").data.tables
    assert tables is not None and isinstance(tables.items, TableFile) and isinstance(tables.events, TableFile)
    assert tables.items.formats == {"price": "german"} and tables.events.formats == {"timestamp": "%d/%m/%Y %H:%M"}


def test_a_terminal_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_shop(SHOPS["es"], tmp_path)
    _change(paths["items"], "precio", ["2.972", "762"])
    answers = iter([2, 1])
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("typer.prompt", lambda *_, **__: next(answers))
    monkeypatch.setattr("typer.confirm", lambda *_, **__: True)
    forms = []
    for number in range(2):
        out = tmp_path / f"{number}.yaml"
        code, said = command(capsys, "init", *paths.values(), "--out", out)
        assert code == 0 and "which number is '2.972' next to '762'?" in said and "2: 2972 (german)" in said, said
        tables = load_config(out).data.tables
        assert tables is not None
        forms.append(tables.files["items"].formats.get("price"))
    assert forms == ["german", "plain"]
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    answers = iter([1])
    code, said = command(capsys, "init", *paths.values(), "--out", tmp_path / "no.yaml")
    assert code == 2 and "nothing was written" in said and not (tmp_path / "no.yaml").exists()


def test_tables_that_cannot_be_told_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_shop(SHOPS["fr"], tmp_path)
    out = tmp_path / "x.yaml"
    for tables, words in (
        ([paths["items"], paths["users"]], "none can be the impressions"),
        ([paths["impressions"]], "name a table of the items"),
        ([tmp_path / "gone.csv"], "gone.csv does not exist"),
    ):
        code, said = command(capsys, "init", *tables, "--out", out, "--yes")
        assert code == 2 and words in said and not out.exists(), said
    code, said = command(capsys, "init", *paths.values(), "--out", out, "--yes", "--format", "price")
    assert code == 2 and "TABLE.COLUMN=FORMAT" in said

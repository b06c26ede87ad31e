"""`equipoise compare` as a command."""

import json
from pathlib import Path

import pytest

from benchmarks.compare_runs import made, write_run
from equipoise.evaluation.compare.wandb_runs import key_of
from equipoise.launch.cli import main
from tests.wandb_files import whole_records


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, two seeds each, in a group; one run outside of it."""
    folder = tmp_path_factory.mktemp("runs")
    for number, (method, seed) in enumerate((m, s) for m in ("pcgrad", "mgda") for s in (1, 2)):
        changes = {"seed": seed, "balancing.method": method, "wandb": {"group": "sweep"}}
        write_run(folder / "sweep" / f"{method}-seed{seed}", changes, made(number, 30, 8))
    write_run(folder / "alone", {"balancing.method": "nash"}, made(5, 30, 8))
    return folder


def test_it_prints_and_writes_everything(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: tmp_path / "out" / f"table.{name}" for name in ("markdown", "csv", "png", "html")}
    options = [text for name, path in files.items() for text in (f"--{name}", str(path))]
    asked = ["--group", "sweep", "--runs", str(runs), "--baseline", "mgda", "--resamples", "20"]
    main_quietly(["compare", *asked, *options])
    out = capsys.readouterr().out
    titles = ("Results on test", "Settings that differ", "Change against mgda")
    for text in (*titles, "pcgrad", "±", "hypervolume", "IGD⁺"):
        assert text in out
    assert "nash" not in out and str(runs / "alone") not in files["csv"].read_text()
    assert all(path.stat().st_size > 500 for path in files.values())
    block = files["html"].read_text().split('id="data">')[1].split("</script>")[0]
    assert [pool["name"] for pool in json.loads(block)["pools"]] == ["mgda", "pcgrad"]


def test_metrics_axes_and_methods_can_be_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main_quietly(["compare", str(runs), "--metrics", "ctr/*auc", "--axes", "ctr/auc,ctr/ne", "--by", "lora.rank"])
    out = capsys.readouterr().out
    assert "GAUC" in out and "NDCG" not in out and "Fronts of pCTR AUC, pCTR NE" in out


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "name the runs to compare"),
    (["{runs}/absent"], "is no folder"),
    (["{runs}", "--split", "train"], "--split train"),
    (["{runs}", "--baseline", "x"], "no run is named 'x'"),
    (["--group", "x", "--runs", "{runs}"], "no run has it: name one of these groups (sweep)"),
    (["{empty}"], "no run can be read: {empty} holds no run"),
])  # fmt: skip
def test_what_the_user_can_mend_ends_in_one_sentence(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    places = {"runs": runs, "empty": tmp_path}
    with pytest.raises(SystemExit) as ended:
        main(["compare", *(argument.format(**places) for argument in arguments)])
    assert ended.value.code == 2
    assert message.format(**places) in capsys.readouterr().err


def test_wandb_gets_the_same_page_and_table(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    wandb.teardown()  # an earlier test's client would keep its own folder
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    main_quietly(["compare", str(runs), "--wandb", "offline", "--csv", "table.csv", "--html", "page.html"])
    said = capsys.readouterr().out
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert f"wandb sync {file.parent}" in said
    (told,) = whole_records(file.parent)
    wandb.teardown()
    (begun,) = (record.run for record in told if record.WhichOneof("record_type") == "run")
    assert begun.job_type == "compare" and begun.project == "equipoise"
    (artifact,) = (
        record.artifact
        for record in told
        if record.WhichOneof("record_type") == "artifact" and record.artifact.type == "comparison"
    )
    sizes = {entry.path: entry.size for entry in artifact.manifest.contents}
    assert sizes["comparison.csv"] == Path("table.csv").stat().st_size
    assert sizes["comparison.html"] == Path("page.html").stat().st_size
    logged = {key_of(item) for r in told if r.WhichOneof("record_type") == "history" for item in r.history.item}
    assert {"comparison", "page"} <= {name.split(".")[0] for name in logged}


def main_quietly(arguments: list[str]) -> None:
    """The command, which ends with exit code 0."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code in (0, None)

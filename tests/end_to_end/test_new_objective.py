"""The recipes of docs/objectives.md, taken from its text, through prepare, train, evaluate, front, export, serving."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.tiny_run import run_settings, write_config

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

DRIVER = """
import json, sys
from pathlib import Path
from equipoise.launch.cli import app

config, run, export = sys.argv[1:4]
for command in (
    ["prepare", config],
    ["train", config],
    ["evaluate", run, "--split", "test"],
    ["front", run, "--points", "32", "--cutoff", "3", "--relevance", "basket=0,0.5,1"],
    ["export", run, export, "--golden", "3"],
):
    try:
        app(command, standalone_mode=False)
    except SystemExit as stop:
        assert not stop.code, command
"""
SERVE = """
import json, sys
from fastapi.testclient import TestClient
from equipoise.serving.recommender import Recommender
from equipoise.serving.server.app import create_app
from equipoise.serving.server.options import ServerOptions

recommender = Recommender.load(sys.argv[1])
keys = ("prefix", "user", "history", "candidates")
example = {key: value for key, value in recommender.examples[0].items() if key in keys}
prepared = recommender.prepare(example)
ranking = recommender.score_prepared([prepared])[0]
with TestClient(create_app(recommender, ServerOptions())) as client:
    answer = client.post("/rank", json=example)
print(json.dumps({"ranking": ranking.to_json(), "status": answer.status_code, "answer": answer.json()}))
"""


def blocks(language: str) -> list[str]:
    """The fenced texts of a language in docs/objectives.md."""
    text = (ROOT / "docs" / "objectives.md").read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def install(folder: Path) -> Path:
    """The package of the recipe as an installer leaves it: the module beside its entry points."""
    folder.mkdir()
    (folder / "shop_novelty.py").write_text(blocks("python")[0], "utf-8")
    about = folder / "shop_novelty-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-novelty\nVersion: 1.0\n")
    points = re.sub(r'\[project\.entry-points\."(.*?)"\]', r"[\1]", blocks("toml")[0]).replace('"', "")
    (about / "entry_points.txt").write_text(points)
    return folder


def add_columns(path: Path) -> None:
    """add_to_cart for half of the clicks, and a margin where something was bought."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rng = np.random.default_rng(5)
    for row in rows:
        row["add_to_cart"] = str(int(row["click"] == "1" and (row["conversion"] == "1" or rng.random() < 0.3)))
        row["margin"] = f"{1 + 3 * rng.random():.2f}" if row["conversion"] == "1" else ""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def python(program: str, *arguments: str, path: Path) -> str:
    """What a program prints, with the user's package installed."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{path}", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=environment, cwd=path
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run with the objectives of the page, and its export."""
    folder = tmp_path_factory.mktemp("objectives")
    path = install(folder / "site")
    settings = run_settings(folder, eval_every=3)
    add_columns(Path(settings["data"]["tables"]["impressions"]))
    by_config, fair, own = (yaml.safe_load(text) for text in blocks("yaml"))
    settings["objectives"] = {**by_config["objectives"], **fair["objectives"], **own["objectives"]}
    settings["relevance"] = by_config["relevance"]
    settings["evaluate"]["omegas"] = [{}, {"novelty": 1.0}]
    config = write_config(settings, folder / "config.yaml")
    run, export = Path(settings["output"]), folder / "export"
    python(DRIVER, str(config), str(run), str(export), path=path)
    return {"run": run, "export": export, "path": path}


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


def test_evaluation_measures_each_on_its_own_target(made: dict[str, Any]) -> None:
    found = read(made["run"] / "evaluation_test.json")
    assert set(found["pointwise"]) == {"ctr", "ctcvr", "cvr", "basket"}
    assert set(found["regression"]) == {"margin"} and found["regression"]["margin"]["rmse"] > 0
    plain, novel = found["ranking"]
    assert novel["omega"] == {"novelty": 1.0} and plain["novelty@5"] > 0


def test_the_front_has_the_new_axis_and_weighs_the_new_factor(made: dict[str, Any]) -> None:
    found = read(made["run"] / "front.json")
    assert found["axes"] == ["ndcg", "novelty"]
    plain = found["points"][0]
    assert plain["relevance_weights"] == {"basket": 0.5} and plain["omega"] == {"novelty": 0.0}


def test_the_export_says_what_each_number_is(made: dict[str, Any]) -> None:
    serving = read(made["export"] / "serving.json")
    about = serving["objectives"]
    assert about["basket"]["meaning"] == "basket = P(add_to_cart | click)"
    assert about["margin"]["link"] == "softplus" and "probability" not in about["margin"]
    assert about["novelty"]["kind"] == "listwise" and "rare categories" in about["novelty"]["meaning"]
    assert serving["relevance_exponents"] == {"ctr": 1.0, "cvr": 1.0, "basket": 0.5}
    assert "rare categories" in (made["export"] / "README.md").read_text("utf-8")


def test_library_and_server_rank_with_them(made: dict[str, Any]) -> None:
    told = json.loads(python(SERVE, str(made["export"]), path=made["path"]).splitlines()[-1])
    assert told["status"] == 200, told["answer"]
    for candidates in (told["ranking"]["candidates"], told["answer"]["candidates"]):
        first = candidates[0]
        assert set(first["probabilities"]) == {"ctr", "cvr", "basket"} and first["predictions"]["margin"] > 0
        logs = {name: np.log(p) for name, p in first["probabilities"].items()}
        assert first["relevance"] == pytest.approx(logs["ctr"] + logs["cvr"] + 0.5 * logs["basket"], abs=1e-6)
        assert set(first["deltas"]) == {"novelty"}

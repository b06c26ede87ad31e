"""The examples that call `equipoise nightly` are what their schedulers read, and name options that there are."""

import ast
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from equipoise.launch.cli import app

EXAMPLES = Path(__file__).resolve().parents[2] / "launch" / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.sh")), ids=lambda path: path.name)
def test_shell_scripts_parse(path: Path) -> None:
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_jobset_is_one() -> None:
    (jobset,) = yaml.safe_load_all((EXAMPLES / "nightly.jobset.yaml").read_text("utf-8"))
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (job,) = jobset["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # what podFailurePolicy asks for
    (container,) = pod["containers"]
    rules = job["template"]["spec"]["podFailurePolicy"]["rules"]
    assert rules[0]["onExitCodes"]["containerName"] == container["name"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_the_dag_parses() -> None:
    tree = ast.parse((EXAMPLES / "nightly_airflow.py").read_text("utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    operator = next(call for call in calls if call.func.id == "BashOperator")  # type: ignore[attr-defined]
    assert {keyword.arg for keyword in operator.keywords} >= {"task_id", "bash_command", "skip_on_exit_code"}


def test_they_name_options_that_there_are() -> None:
    group: Any = typer.main.get_command(app)
    known = {option for parameter in group.commands["nightly"].params for option in parameter.opts}
    for path in sorted(EXAMPLES.iterdir()):
        if path.is_file():
            calls = re.findall(r"equipoise nightly[^\n]*", path.read_text("utf-8"))
            assert calls, path
            for call in calls:
                assert set(re.findall(r"--(?!utc|date)[a-z-]+", call)) <= known, call

"""The recipes for schedulers: valid for their own checkers, and what they call exists."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer.main
import yaml

from equipoise.launch.cli import app
from equipoise.launch.launch_job import config_file

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
TRAIN = ("slurm/train.sbatch", "kubernetes/train.yaml", "skypilot/train.yaml")
NIGHTLY = ("slurm/nightly.sbatch", "kubernetes/nightly.yaml", "airflow/nightly.py")


def test_kubernetes_takes_its_recipe() -> None:
    documents = list(yaml.safe_load_all((LAUNCH / "kubernetes" / "train.yaml").read_text()))
    assert [document["kind"] for document in documents] == ["Service", "Job"]
    for document in documents:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_pods_are_as_many_as_nodes_and_find_the_first_by_the_service() -> None:
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes" / "train.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    told = {each["name"]: each["value"] for each in container["env"]}
    assert str(job["spec"]["completions"]) == str(job["spec"]["parallelism"]) == told["NODES"]
    assert str(container["resources"]["limits"]["nvidia.com/gpu"]) == told["GPUS"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert f"{job['metadata']['name']}-0.{pod['subdomain']}" in container["args"][0]
    (port,) = service["spec"]["ports"]
    assert f"--main_process_port {port['port']}" in container["args"][0]


@pytest.mark.parametrize("name", ["train", "nightly"])
def test_the_shell_takes_the_slurm_scripts(name: str) -> None:
    checker = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or "shellcheck"
    script = LAUNCH / "slurm" / f"{name}.sbatch"
    done = subprocess.run([checker, "-S", "warning", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def _command(recipe: str) -> str:
    text = (LAUNCH / recipe).read_text()
    start = text.index("exec equipoise launch")
    return " ".join(text[start : text.index("--auto-resume", start)].split()).replace("\\ ", "")


@pytest.mark.parametrize("recipe", TRAIN)
def test_a_recipe_launches_what_there_is(recipe: str) -> None:
    """Names of configs, and options that Accelerate's launcher knows, each with what says which node this is."""
    from accelerate.commands.launch import launch_command_parser

    command = _command(recipe)
    known: set[str] = set(launch_command_parser()._option_string_actions)
    options = set(re.findall(r"--[a-z_]+", command)) - {"--accelerate"}
    assert options <= known and {"--num_machines", "--machine_rank", "--main_process_ip"} <= options
    for name in re.findall(r"multi_node\w*", (LAUNCH / recipe).read_text()):
        assert config_file(name).is_file()


def test_skypilot_starts_the_nodes_that_it_counts() -> None:
    task: dict[str, Any] = yaml.safe_load((LAUNCH / "skypilot" / "train.yaml").read_text())
    assert set(task) <= {"name", "resources", "num_nodes", "file_mounts", "setup", "run", "envs", "workdir", "config"}
    assert task["num_nodes"] == 2 and "/work" in task["file_mounts"]
    for variable in ("NUM_NODES", "NUM_GPUS_PER_NODE", "NODE_RANK", "NODE_IPS"):
        assert f"SKYPILOT_{variable}" in task["run"]


def test_the_jobset_is_one() -> None:
    (jobset,) = yaml.safe_load_all((LAUNCH / "kubernetes" / "nightly.yaml").read_text("utf-8"))
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (job,) = jobset["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # what podFailurePolicy asks for
    (container,) = pod["containers"]
    rules = job["template"]["spec"]["podFailurePolicy"]["rules"]
    assert rules[0]["onExitCodes"]["containerName"] == container["name"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_the_dag_parses() -> None:
    tree = ast.parse((LAUNCH / "airflow" / "nightly.py").read_text("utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    operator = next(call for call in calls if call.func.id == "BashOperator")  # type: ignore[attr-defined]
    assert {keyword.arg for keyword in operator.keywords} >= {"task_id", "bash_command", "skip_on_exit_code"}


@pytest.mark.parametrize("recipe", NIGHTLY)
def test_a_night_is_called_with_options_that_there_are(recipe: str) -> None:
    group: Any = typer.main.get_command(app)
    known = {option for parameter in group.commands["nightly"].params for option in parameter.opts}
    calls = re.findall(r"equipoise nightly[^\n]*", (LAUNCH / recipe).read_text("utf-8"))
    assert calls
    for call in calls:
        assert set(re.findall(r"--(?!utc|date)[a-z-]+", call)) <= known, call

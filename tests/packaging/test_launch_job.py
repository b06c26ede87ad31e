"""`equipoise launch`: packaged Accelerate configs by name, options and exit codes handed on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from equipoise.common.errors import UserError
from equipoise.launch import launch_job as module
from equipoise.launch.cli import main
from equipoise.launch.launch_job import FOLDER, config_file, exit_code, launch_job, on_cpu

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    "cpu, cpu_ddp2, cpu_fsdp2, cpu_zero1, cpu_zero2, cpu_zero3, ddp, fsdp2, gpu_ddp, multi_node, "
    "multi_node_ddp, multi_node_fsdp2, zero1, zero2, zero3"
)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The options that reach Accelerate's launcher, which is not called."""
    options: list[Any] = []
    monkeypatch.setattr(module, "_run", lambda launch_command, given: options.append(given))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "set, so that it is restored")
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    return options


def test_packaged_configs_are_found_by_name_and_files_by_path(tmp_path: Path) -> None:
    assert config_file("zero3") == FOLDER / "zero3.yaml"
    assert config_file("ddp") == FOLDER / "gpu_ddp.yaml"
    own = tmp_path / "own.yaml"
    own.write_text("num_processes: 3\n")
    assert config_file(str(own)) == own
    with pytest.raises(UserError, match=f"--accelerate zero4 is neither a file nor one of {NAMES}: correct it"):
        config_file("zero4")


@pytest.mark.parametrize("text", ["", "- a list\n", "a: [\n"])
def test_a_file_without_settings_is_refused(text: str, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(text)
    with pytest.raises(UserError, match=r"own\.yaml (holds no settings|cannot be read)"):
        launch_job(str(own), ["train", "config.yaml"])


def test_options_stand_before_the_command_and_its_arguments_after_it(launched: list[Any]) -> None:
    given = ["--num_processes", "4", "--machine_rank=1", "--main_process_ip", "10.0.0.1", "--main_process_port", "3000"]
    with pytest.raises(SystemExit) as stop:
        main(["launch", *given, "--accelerate", "multi_node", "train", "my.yaml", "train.lr=1e-3", "--resume"])
    assert not stop.value.code
    options = launched[0]
    assert options.config_file == str(FOLDER / "multi_node.yaml")
    assert (options.num_processes, options.machine_rank) == (4, 1)
    assert (options.main_process_ip, options.main_process_port) == ("10.0.0.1", 3000)
    assert (options.module, options.training_script) == (True, "equipoise.launch.train")
    assert options.training_script_args == ["my.yaml", "train.lr=1e-3", "--resume"]


def test_one_machine_takes_a_free_port_unless_one_is_named(launched: list[Any], tmp_path: Path) -> None:
    launch_job("zero2", ["score", "run", "requests", "out"])
    launch_job("zero2", ["--main_process_port", "3000", "front", "run"])
    launch_job("multi_node", ["evaluate", "run"])
    own = tmp_path / "own.yaml"
    own.write_text("num_machines: 1\nmain_process_port: 3001\n")
    launch_job(str(own), ["evaluate", "run"])
    launch_job(None, ["evaluate", "run"])
    assert [options.main_process_port for options in launched] == [0, 3000, None, None, 0]
    assert [options.config_file for options in launched][-1] is None


def test_only_plain_processes_on_the_cpu_are_told_so(launched: list[Any]) -> None:
    told = {file.stem: on_cpu(file, yaml.safe_load(file.read_text())) for file in FOLDER.glob("*.yaml")}
    assert {name for name, on in told.items() if on} == {"cpu", "cpu_ddp2", "cpu_fsdp2"}
    launch_job("cpu_zero2", ["train", "my.yaml"])
    assert "ACCELERATE_USE_CPU" not in os.environ
    launch_job("cpu_ddp2", ["train", "my.yaml"])
    assert os.environ["ACCELERATE_USE_CPU"] == "true"


@pytest.mark.parametrize("arguments", [["prepare", "my.yaml"], ["--num_processes", "2", "compare", "a", "b"]])
def test_other_commands_are_refused(arguments: list[str], launched: list[Any]) -> None:
    with pytest.raises(UserError, match="cannot be launched: choose from train, evaluate, score, front"):
        launch_job("cpu", arguments)
    assert not launched


def test_unknown_options_of_accelerate_end_with_exit_code_2(launched: list[Any]) -> None:
    with pytest.raises(SystemExit) as stop:
        launch_job("cpu", ["--no_such_option", "3", "train", "my.yaml"])
    assert stop.value.code == 2
    assert not launched


def test_exit_codes_are_those_of_a_shell() -> None:
    assert [exit_code(code) for code in (0, 1, 2, -9, -15)] == [0, 1, 2, 137, 143]


def start(arguments: list[str], folder: Path) -> "subprocess.Popen[str]":
    """`equipoise launch …` in a folder that is no checkout."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "RANK", "WORLD_SIZE"))}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "equipoise.launch.cli", "launch", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("engine", ["cpu", "cpu_ddp2"])
def test_a_users_mistake_keeps_its_sentence_and_exit_code(engine: str, tmp_path: Path) -> None:
    process = start(["--accelerate", engine, "train", "missing.yaml"], tmp_path)
    printed = process.communicate(timeout=200)[0]
    assert process.returncode == 2, printed
    assert "error: missing.yaml does not exist" in printed
    assert "Traceback" not in printed


# Stands in for a job: says that it runs, and on a signal that it has heard it; then it ends with 3.
# Each line is one write: those of two processes would mingle.
JOB = """
import os, signal, sys, time
def stop(number, frame):
    os.write(1, b"heard %d\\n" % number)
    sys.exit(3)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
os.write(1, b"runs\\n")
time.sleep(100)
"""

STAND_IN = """
import sys
from equipoise.launch import launch_job
import accelerate.commands.launch as launcher
real = launcher.launch_command
def launch_command(options):
    options.module, options.training_script = False, sys.argv[2]
    real(options)
launcher.launch_command = launch_command
launch_job.launch_job(sys.argv[1], ["train"])
"""


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("engine", "number", "code"),
    [("cpu", signal.SIGTERM, 3), ("cpu", signal.SIGINT, 3), ("cpu_ddp2", signal.SIGTERM, 143)],
)
def test_signals_reach_the_job(engine: str, number: int, code: int, tmp_path: Path) -> None:
    job = tmp_path / "job.py"
    job.write_text(JOB)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", STAND_IN, engine, str(job)], cwd=tmp_path, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1,
    )  # fmt: skip
    assert process.stdout is not None
    lines: list[str] = []
    while sum("runs" in line for line in lines) < (2 if engine == "cpu_ddp2" else 1):
        line = process.stdout.readline()
        assert line, lines
        lines.append(line)
    time.sleep(0.2)
    process.send_signal(number)
    printed = process.communicate(timeout=100)[0]
    assert f"heard {int(number)}" in printed
    assert process.returncode == code, printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("kind", ["NO", "MULTI_CPU"])
def test_processes_that_would_not_start_are_refused(kind: str, tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(f"compute_environment: LOCAL_MACHINE\ndistributed_type: '{kind}'\nnum_processes: 4\n")
    with pytest.raises(UserError, match=f"num_processes is 4, but with distributed_type {kind}"):
        launch_job(str(config), ["train", "config.yaml"])


def test_what_the_launcher_itself_refuses_is_a_sentence(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nnum_processes: 2\nmachine_rank: 0\n"
        "num_machines: 1\nfsdp_config: {fsdp_cpu_ram_efficient_loading: true, fsdp_sync_module_states: false}\n"
    )
    with pytest.raises(UserError, match="fsdp_cpu_ram_efficient_loading"):
        launch_job(str(config), ["train", "config.yaml"])

"""equipoise launch: a command in many processes, by Accelerate's launcher and a packaged or own config of it.

The launcher runs inside this process, so that signals reach it, and that the exit code of the job can be read from it.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from equipoise.common.errors import UserError
from equipoise.common.process import INTERRUPTED, LAUNCHER
from equipoise.common.yaml_file import read_yaml

COMMANDS = ("train", "evaluate", "score", "front")
"""The commands that share their work among processes."""

ALIASES = {"ddp": "gpu_ddp"}
FOLDER = Path(__file__).resolve().parent.parent / "configs" / "accelerate"


def launch_job(accelerate: str | None, arguments: Sequence[str]) -> None:
    """Run `[ACCELERATE OPTIONS] COMMAND ARGS…` in the processes that an Accelerate config asks for.

    Args:
        accelerate: name of a packaged config or path of a file; None is the user's default config of Accelerate.
        arguments: options of `accelerate launch`, then one of `COMMANDS` and its own arguments.

    Raises:
        UserError: the config or the command is unknown.
        SystemExit: the job failed; the code is that of its first failed process (128 + N for signal N), or 75 where a
            signal stopped a training, which goes on with --resume.
    """
    config = None if accelerate is None else config_file(accelerate)
    hints = ("correct the file", "write one with `accelerate config`")
    settings = {} if config is None else read_yaml(config, *hints, place="--accelerate ")
    from accelerate.commands.launch import launch_command, launch_command_parser  # loads torch

    parser = launch_command_parser()
    parser.prog, parser.usage = "equipoise launch", "equipoise launch [--accelerate NAME] [OPTIONS] COMMAND [ARGS…]"
    if not arguments:
        raise UserError(f"name the command to launch: {', '.join(COMMANDS)}")
    options = parser.parse_args([*([] if config is None else ["--config_file", str(config)]), *arguments])
    if options.training_script not in COMMANDS:
        raise UserError(f"'{options.training_script}' cannot be launched: choose from {', '.join(COMMANDS)}")
    options.module, options.training_script = True, f"equipoise.launch.{options.training_script}"
    _refuse_unused_processes(options, settings)
    machines = options.num_machines or settings.get("num_machines") or 1
    if machines == 1 and options.main_process_port is None and "main_process_port" not in settings:
        options.main_process_port = 0  # a free one, so that two jobs on a machine do not meet
    if machines > 1:
        # A store of the launchers' own would show a node that joins later the addresses of processes that have died.
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    if on_cpu(config, settings):
        os.environ["ACCELERATE_USE_CPU"] = "true"
    os.environ[LAUNCHER] = str(os.getpid())  # so that its processes see when it dies
    with signals_handed_on():
        _run(launch_command, options)


MANY = (
    "DEEPSPEED",
    "FSDP",
    "MEGATRON_LM",
    "MULTI_GPU",
    "MULTI_HPU",
    "MULTI_MLU",
    "MULTI_MUSA",
    "MULTI_NPU",
    "MULTI_XPU",
)
"""Values of distributed_type with which Accelerate starts more than one process."""


def _refuse_unused_processes(options: Any, settings: dict[str, Any]) -> None:
    """Refuse processes that are asked for and that Accelerate would not start, silently.

    Raises:
        UserError: names the setting.
    """
    processes = options.num_processes or settings.get("num_processes") or 1
    kind = str(settings.get("distributed_type", "NO"))
    chosen = options.multi_gpu or options.use_deepspeed or options.use_fsdp or options.use_megatron_lm or options.tpu
    if settings and processes > 1 and kind not in MANY and not chosen:
        raise UserError(
            f"--accelerate: num_processes is {processes}, but with distributed_type {kind} Accelerate starts one: set "
            "distributed_type to MULTI_GPU (on CPUs too), FSDP or DEEPSPEED, or num_processes to 1"
        )


def config_file(name: str) -> Path:
    """The Accelerate config of this name, or the file at this path.

    Raises:
        UserError: there is neither.
    """
    packaged = FOLDER / f"{ALIASES.get(name, name)}.yaml"
    if packaged.is_file():
        return packaged
    if Path(name).is_file():
        return Path(name)
    names = sorted({*ALIASES, *(file.stem for file in FOLDER.glob("*.yaml"))})
    raise UserError(f"--accelerate {name} is neither a file nor one of {', '.join(names)}: correct it")


def on_cpu(config: Path | None, settings: dict[str, Any]) -> bool:
    """Whether a packaged config keeps plain processes on the CPU, which Accelerate has to be told by a variable.

    DeepSpeed must not see that variable: each of its processes would believe that it is alone.
    """
    if config is None or config.parent != FOLDER:
        return False
    return config.stem.startswith("cpu") and settings.get("distributed_type") != "DEEPSPEED"


def _run(launch_command: Any, options: Any) -> None:
    """Launch, and end with the exit code of the job; what its processes have said already is not said again."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        launch_command(options)
    except (ValueError, NotImplementedError, RuntimeError) as error:  # what the launcher itself says of its settings
        if type(error) not in (ValueError, NotImplementedError, RuntimeError):
            raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise UserError(
            f"Accelerate's launcher refuses its settings ({reason}): correct the Accelerate config"
        ) from error
    except subprocess.CalledProcessError as error:
        sys.exit(exit_code(error.returncode))
    except SignalException as error:
        # A training saves and can go on; other commands start where they were.
        sys.exit(INTERRUPTED if options.training_script.endswith(".train") else 128 + error.sigval)
    except ChildFailedError as error:
        code = exit_code(error.get_first_failure()[1].exitcode)
        if code not in (2, INTERRUPTED):
            print(error, file=sys.stderr)
        sys.exit(code)


def exit_code(code: int) -> int:
    """A process's exit code as a shell tells it: 128 + N for one that signal N has ended."""
    return 128 - code if code < 0 else code


@contextmanager
def signals_handed_on() -> Iterator[None]:
    """Hand SIGINT and SIGTERM to the one process of a job, which the caller only waits for.

    With several processes the launcher sets handlers of its own once they run.
    """
    import psutil

    def hand_on(number: int, frame: FrameType | None) -> None:
        children = psutil.Process().children()
        if not children:
            sys.exit(128 + number)
        for child in children:
            child.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

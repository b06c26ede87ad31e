"""The package as users have it: from a wheel, editable and uninstalled, among files of their own."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.tiny_run import run_settings, write_config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
ROOMS = (
    "common", "configs", "data", "evaluation", "export", "launch", "modeling", "nightly", "scoring", "serving",
    "sweep", "train",
)  # fmt: skip
# Files that users have beside their config, each of which once stood in the way of a command or was run by it.
USER_FILES = [
    "train.py", "data/__init__.py", "configs/__init__.py", "launch.py", "data/loader.py", "modeling.py", "export.py",
    "evaluation/__init__.py", "common.py", "sweep.py", "scoring.py", "serving/__init__.py",
]  # fmt: skip
POISON = "from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\nraise SystemExit('a user file ran')\n"


@dataclass(frozen=True)
class Environment:
    """A virtual environment that sees this one's packages, but of equipoise its own installation only."""

    folder: Path

    @staticmethod
    def make(folder: Path, wheel: Path | None) -> "Environment":
        """A new one, with a wheel of equipoise or without any."""
        run([sys.executable, "-m", "venv", "--without-pip", str(folder)], folder.parent)
        environment = Environment(folder)
        # A path in a .pth file: .pth files that are there, as that of an editable equipoise, are not followed.
        (environment.packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        if wheel is not None:
            pip("install", "--no-deps", "--no-index", "--target", str(environment.packages), str(wheel))
        return environment

    @property
    def packages(self) -> Path:
        """Its site-packages."""
        return next(self.folder.glob("lib/python*/site-packages"))

    def python(self, folder: Path, *arguments: str, code: int = 0) -> str:
        """What its interpreter prints in a folder, having ended with `code`."""
        return run([str(self.folder / "bin" / "python"), *arguments], folder, code)


def run(command: list[str], folder: Path, code: int = 0) -> str:
    """Stdout and stderr of a command in a folder; the checkout is not on its path."""
    foreign = ("ACCELERATE_", "RANK", "WORLD_SIZE", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def pip(*arguments: str) -> None:
    """pip, without any index."""
    run([sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"], ROOT)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of all files that git knows, links as links."""
    folder = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in listed.decode().split("\0"):
        source, target = ROOT / name, folder / name
        if not name or not (source.is_symlink() or source.exists()):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(source.readlink())
        else:
            target.write_bytes(source.read_bytes())
    return folder


def build(checkout: Path, kind: str, out: Path) -> Path:
    """A distribution by setuptools itself: `sdist`, `wheel` or `editable`."""
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    run([sys.executable, "-c", code, str(out)], checkout)
    return next(out.iterdir())


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built from the source distribution."""
    folder = tmp_path_factory.mktemp("built")
    for name in ("sdist", "unpacked", "wheel"):
        (folder / name).mkdir()
    with tarfile.open(build(checkout, "sdist", folder / "sdist")) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    return build(next((folder / "unpacked").iterdir()), "wheel", folder / "wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel."""
    return Environment.make(tmp_path_factory.mktemp("installed") / "venv", wheel)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on tiny tables, with absolute paths."""
    folder = tmp_path_factory.mktemp("tiny")
    return write_config(run_settings(folder, max_steps=2), folder / "my.yaml")


def user_folder(folder: Path, names: list[str]) -> Path:
    """A folder with these files, each of which says so when it runs."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(POISON)
    return folder


def assert_none_ran(folder: Path) -> None:
    assert not list(folder.rglob("*.ran"))


def test_the_wheel_holds_the_rooms_under_one_name(checkout: Path, wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in names} == {"equipoise", "equipoise-0.1.0.dist-info"}
    assert zipfile.ZipFile(wheel).read("equipoise-0.1.0.dist-info/top_level.txt").split() == [b"equipoise"]
    files = {file.relative_to(checkout) for room in ROOMS for file in (checkout / room).rglob("*") if file.is_file()}
    files = {file for file in files if "__pycache__" not in file.parts}
    assert {f"equipoise/{file.as_posix()}" for file in files} | {"equipoise/__init__.py", "equipoise/py.typed"} == {
        name for name in names if name.startswith("equipoise/")
    }


def test_no_bare_name_can_be_imported(installed: Environment, tmp_path: Path) -> None:
    code = (
        f"import importlib.util, equipoise; print(equipoise.__file__); print(equipoise.__version__);"
        f"print([name for name in {(*ROOMS, 'tests', 'benchmarks')} if importlib.util.find_spec(name)])"
    )
    file, version, bare = installed.python(tmp_path, "-c", code).split("\n")[:3]
    assert Path(file).is_relative_to(installed.packages)
    assert version == "0.1.0"
    assert bare == "[]"


@pytest.mark.parametrize("name", USER_FILES)
def test_commands_work_beside_a_users_file(name: str, installed: Environment, config: Path, tmp_path: Path) -> None:
    folder = user_folder(tmp_path, [name])
    printed = installed.python(folder, "-m", "equipoise.launch.cli", "validate", str(config))
    assert "is valid" in printed
    assert_none_ran(folder)


def test_a_strangers_package_without_init_still_works(installed: Environment, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "loader.py").write_text("ROWS = 3\n")
    for code in (
        "import equipoise.data.manifest; from data.loader import ROWS; print(ROWS)",
        "from data.loader import ROWS; import equipoise.data.manifest; print(ROWS)",
    ):
        assert installed.python(tmp_path, "-c", code).strip() == "3"


def test_a_whole_run_beside_all_users_files(installed: Environment, config: Path, tmp_path: Path) -> None:
    folder, cli = user_folder(tmp_path, USER_FILES), ("-m", "equipoise.launch.cli")
    assert "prepared" in installed.python(folder, *cli, "prepare", str(config))
    accelerate = installed.packages / "equipoise" / "configs" / "accelerate" / "cpu.yaml"
    launcher = ("-m", "accelerate.commands.launch", "--config_file", str(accelerate), "-m", "equipoise.launch.train")
    assert "2 steps" in installed.python(folder, *launcher, str(config))
    run_folder = yaml.safe_load(config.read_text())["output"]
    installed.python(folder, *cli, "launch", "--accelerate", "cpu", "evaluate", run_folder)
    assert (Path(run_folder) / "evaluation_test.json").exists()
    assert_none_ran(folder)


def test_a_checkout_works_uninstalled(checkout: Path, config: Path, tmp_path: Path) -> None:
    bare = Environment.make(tmp_path / "venv", None)
    code = "import equipoise.configs.load as load; print(load.__file__); import equipoise; print(equipoise.__version__)"
    file, version = bare.python(checkout, "-c", code).split()
    assert (Path(file).is_relative_to(checkout), version) == (True, "0.1.0")
    assert "prepare" in bare.python(checkout, "-m", "equipoise.launch.cli", "--help")
    assert "No module named 'equipoise'" in bare.python(tmp_path, "-c", "import equipoise", code=1)


def test_a_checkout_works_editable(checkout: Path, config: Path, tmp_path: Path) -> None:
    (tmp_path / "wheel").mkdir()
    editable = Environment.make(tmp_path / "venv", build(checkout, "editable", tmp_path / "wheel"))
    folder = user_folder(tmp_path / "user", USER_FILES)
    file = editable.python(folder, "-c", "import equipoise.train.schedule as module; print(module.__file__)").strip()
    assert Path(file).is_relative_to(checkout)
    assert "is valid" in editable.python(folder, "-m", "equipoise.launch.cli", "validate", str(config))
    names = f"[name for name in {ROOMS} if importlib.util.find_spec(name)]"
    assert editable.python(tmp_path, "-c", f"import importlib.util; print({names})").strip() == "[]"
    assert_none_ran(folder)


@pytest.mark.parametrize("statement", ["from train import job", "import data", "import configs.load", "import export"])
def test_bare_names_are_refused_by_the_linter(statement: str, tmp_path: Path) -> None:
    file = tmp_path / "bare.py"
    file.write_text(f"{statement}\n")
    command = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    printed = run([*command, "--select", "TID251", "--output-format", "concise", str(file)], tmp_path, code=1)
    assert "TID251" in printed
    file.write_text("from equipoise.train import job\n")
    run([*command, "--select", "TID251", str(file)], tmp_path)

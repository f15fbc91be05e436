"""Promises about the files: the floors in .importlinter hold, and breaking one is noticed; and what it cannot see."""

import configparser
import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("data", "train", "inference", "deploy")


def contracts():
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".importlinter")
    return parser


def lint_imports(folder):
    command = [shutil.which("lint-imports", path=Path(sys.executable).parent), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.fixture
def checkout(tmp_path):
    """A copy of all that the contracts are about, to be spoilt."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "*.parquet"))
    shutil.copy(ROOT / ".importlinter", tmp_path)
    return tmp_path


def test_every_import_goes_down():
    finished = lint_imports(ROOT)
    assert finished.returncode == 0, finished.stdout


@pytest.mark.parametrize(
    ("file", "line", "broken", "named"),
    [
        ("data/files.py", "import train.units", "data <- train <- inference", "data.files -> train.units"),
        ("train/fast/choose.py", "import train.run", "The floors of train", "train.fast.choose -> train.run"),
        ("train/run_folder/manifest.py", "import torch", "No torch below", "train.run_folder.manifest -> torch"),
        ("deploy/profile.py", "import train.model.base", "deploy imports", "deploy.profile -> train.model.base"),
        ("train/rooms_lost.py", "", "The floors of train", "train.rooms_lost"),  # a module that is on no floor
    ],
)
def test_an_import_that_goes_up_is_named(checkout, file, line, broken, named):
    with (checkout / file).open("a") as stream:
        stream.write(f"\n{line}\n")
    finished = lint_imports(checkout)
    assert finished.returncode == 1, finished.stdout
    assert broken in finished.stdout
    assert named in finished.stdout


def test_torch_free_modules_load_no_torch():
    """The contract does not look into functions that were excused from it; loading shows what a start costs."""
    modules = contracts()["importlinter:contract:no-torch"]["source_modules"].split()
    assert len(modules) > 20
    found = [module for name in modules for module in [name, *rooms_files(name)]]
    code = f"import sys, {', '.join(found)}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert finished.returncode == 0, finished.stderr


def rooms_files(module):
    """The modules of a package, without its command line; none of a module."""
    folder = ROOT / module.replace(".", "/")
    files = [path.relative_to(ROOT) for path in folder.rglob("*.py") if not path.name.startswith("__")]
    return [".".join(path.with_suffix("").parts) for path in files]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_says_what_it_is_for(package):
    rooms = sorted((ROOT / package).rglob("__init__.py"))
    assert rooms
    for room in rooms:
        name = ".".join(room.parent.relative_to(ROOT).parts)
        assert importlib.import_module(name).__doc__, f"{name} has no docstring"


def test_gitignore_keeps_the_data_package():
    assert "data/" not in (ROOT / ".gitignore").read_text().splitlines()


def test_no_test_folder_is_a_package():
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_run_tells_its_story_in_150_lines():
    assert len((ROOT / "train" / "run.py").read_text().splitlines()) <= 150

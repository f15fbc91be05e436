"""The import rule (data <- train <- inference; deploy: torch-free parts only) and promises about the files."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("data", "train", "inference", "deploy")
MAY_IMPORT = {
    "data": {"data"},
    "train": {"data", "train"},
    "inference": {"data", "train", "inference"},
    "deploy": {"deploy", "data.files", "data.schema", "train.config", "train.failure", "train.run_folder"},
}
TORCH_FREE = (
    "data.files",
    "data.model_files",
    "data.schema",
    "train.config.run_config",
    "train.run_folder.manifest",
    "train.run_folder.run_folder",
    "train.failure",
    "train.distributed.launch",
    "train.fault_tolerance.stopping",
    "train.fault_tolerance.run_lock",
    "train.fast.when_exact",
    "train.distributed.heartbeat",
    "train.fault_tolerance.guards",
    "train.run_folder.retries",
    "train.distributed.machine",
    "train.distributed.topology",
    "train.results.diagnose",
    "train.batching.batches",
    "train.batching.steps",
    "train.batching.tokenise",
    "train.fault_tolerance.checkpoints",
    "train.planning.predict",
    "train.generation.settings",
    "train.results.report.page",
    "train.results.run_files",
    "train.results.status",
    "inference.models.published",
)


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            # `from train import resume` imports train.resume
            names |= {f"{node.module}.{alias.name}" if node.module in PACKAGES else node.module for alias in node.names}
    return {name for name in names if name.split(".")[0] in PACKAGES}


def breaks_rule(package: str, module: str) -> bool:
    return not any(module == allowed or module.startswith(f"{allowed}.") for allowed in MAY_IMPORT[package])


def test_rule_catches_a_backward_import():
    assert breaks_rule("data", "train.config.run_config")
    assert breaks_rule("train", "inference.models.load")
    assert breaks_rule("deploy", "train.run")
    assert not breaks_rule("deploy", "train.config.run_config")


def test_import_rule():
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 20
    offences = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files
        for module in imported_modules(path)
        if breaks_rule(path.relative_to(ROOT).parts[0], module)
    ]
    assert not offences


@pytest.mark.parametrize("module", TORCH_FREE)
def test_torch_free_modules_do_not_load_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


def test_gitignore_keeps_the_data_package():
    assert "data/" not in (ROOT / ".gitignore").read_text().splitlines()


def test_no_test_folder_is_a_package():
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_run_tells_its_story_in_150_lines():
    assert len((ROOT / "train" / "run.py").read_text().splitlines()) <= 150

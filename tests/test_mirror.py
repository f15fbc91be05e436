"""The tests mirror the code: tests/PACKAGE/ROOM/test_FILE.py is about PACKAGE/ROOM/FILE.py, and every file has one.

`__main__.py` is tested by test_main.py. Files without a namesake are listed here, with the place that tests them.
"""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("data", "train", "inference", "deploy")

TESTED_ELSEWHERE = {
    "inference/ask_original_model.py": ("tests/inference/asking/test_ask.py", "a door: the other's command line"),
    "inference/ask_tuned_model.py": ("tests/inference/asking/test_ask.py", "a door: its command line"),
    "inference/judging/comparison.py": ("tests/inference/test_compare.py", "a comparison that is run"),
    "train/config/yaml_files.py": ("tests/train/config/test_run_config.py", "recipes are read through it"),
    "train/fast/choose.py": ("tests/parity/test_fast_paths.py", "through the command line, against the plain path"),
    "train/fast/shared_prefix.py": ("tests/train/generation/test_batched.py", "a beginning shared while generating"),
    "train/masking.py": ("tests/test_security.py", "secrets do not reach a file; doctests"),
    "train/methods/description.py": ("tests/train/results/test_model_card.py", "words, as a card has them"),
    "train/monitoring/sink.py": ("tests/train/monitoring/test_tracking.py", "a protocol and two plain records"),
    "train/monitoring/watcher.py": ("tests/train/monitoring/test_watchers.py", "a protocol"),
    "train/run.py": ("tests/train/test_main.py", "the run, through the command line"),
    "train/units.py": ("tests/train/results/test_status.py", "numbers as a status shows them; doctests"),
}
"""Module -> which file has its tests, and why that one."""

ABOUT_NO_SINGLE_MODULE = {
    "tests/data/test_fuzz.py": "reading, building and splitting, with any bytes",
    "tests/data/test_qa_dataset.py": "the baked-in data set",
    "tests/data/test_qa_dataset_conversions.py": "the baked-in data set: its unit conversions",
    "tests/deploy/jobs/test_checkov.py": "manifests, by checkov",
    "tests/deploy/test_cleanup.py": "deploy/cleanup.sh",
    "tests/deploy/test_deploy_script.py": "deploy/deploy-script.sh",
    "tests/deploy/test_image.py": "the container image",
    "tests/inference/test_no_torch.py": "what says that it loads no torch",
    "tests/inference/playground/test_page.py": "the playground's page in a browser",
    "tests/train/config/test_fuzz.py": "recipes, settings and manifests, whatever they say",
    "tests/train/config/test_recipes.py": "train/recipes/*.yaml",
}
"""Test file -> what it is about."""


def namesake(module: str) -> str:
    """
    >>> namesake("train/batching/topics.py"), namesake("data/__main__.py")
    ('tests/train/batching/test_topics.py', 'tests/data/test_main.py')
    """
    folder, _, name = module.rpartition("/")
    return f"tests/{folder}/test_{name.replace('__main__', 'main')}"


def modules() -> list[str]:
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return sorted(str(path.relative_to(ROOT)) for path in paths if path.name != "__init__.py")


def test_files() -> list[str]:
    paths = (path for package in PACKAGES for path in (ROOT / "tests" / package).rglob("test_*.py"))
    return sorted(str(path.relative_to(ROOT)) for path in paths)


test_files.__test__ = False


@pytest.mark.parametrize("module", modules())
def test_a_module_has_its_namesake_or_is_tested_elsewhere(module):
    has_namesake = (ROOT / namesake(module)).exists()
    if module in TESTED_ELSEWHERE:
        assert not has_namesake, f"{namesake(module)} exists: take {module} from the list"
    else:
        assert has_namesake, f"{namesake(module)} is missing"


@pytest.mark.parametrize("file", test_files())
def test_a_test_file_names_a_module_or_is_about_no_single_one(file):
    names_module = file in {namesake(module) for module in modules()}
    if file in ABOUT_NO_SINGLE_MODULE:
        assert not names_module, f"{file} names a module: take it from the list"
    else:
        assert names_module, f"{file} names no module"


def test_what_is_listed_exists():
    assert [module for module in TESTED_ELSEWHERE if not (ROOT / module).exists()] == []
    assert [file for file, _ in TESTED_ELSEWHERE.values() if not (ROOT / file).exists()] == []
    assert [file for file in ABOUT_NO_SINGLE_MODULE if not (ROOT / file).exists()] == []

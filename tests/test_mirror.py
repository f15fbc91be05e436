"""The tests mirror the code: tests/PACKAGE/ROOM/test_FILE.py is about PACKAGE/ROOM/FILE.py, and every file has one.

`__main__.py` is tested by test_main.py. Files without a namesake are listed here, with the place that tests them.
"""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("data", "train", "inference", "deploy")

TESTED_ELSEWHERE = {
    "data/manifest.py": ("tests/data/test_build.py", "a manifest is written and read by a build"),
    "data/progress.py": ("tests/data/test_build.py", "a build shows it"),
    "data/sources.py": (
        "tests/data/test_build.py",
        "a source is read by a build; tests/data/test_fuzz.py reads any bytes",
    ),
    "data/tokenizer.py": ("tests/data/test_render.py", "the tokenizer by what it renders; frozen templates too"),
    "deploy/errors.py": ("tests/deploy/kube/test_client.py", "error classes, met where they are raised"),
    "deploy/jobs/pod_rules.py": ("tests/deploy/jobs/test_pytorchjob_rules.py", "rules of pods, within those of jobs"),
    "deploy/kube/logs.py": ("tests/drills/test_logs.py", "needs a cluster that writes logs"),
    "deploy/kube/watch.py": ("tests/drills/test_watch.py", "needs a cluster whose jobs get into trouble"),
    "inference/ask_original_model.py": (
        "tests/inference/asking/test_ask.py",
        "a door: one command line with the one of the tuned model",
    ),
    "inference/ask_tuned_model.py": ("tests/inference/asking/test_ask.py", "a door: its command line"),
    "inference/command.py": ("tests/inference/asking/test_ask.py", "what the doors' command lines share"),
    "inference/gguf/llama_cpp.py": ("tests/inference/test_export.py", "the tools, as an export runs them"),
    "inference/gguf/metadata.py": ("tests/inference/test_export.py", "what an exported file says of itself"),
    "inference/judging/comparison_report.py": (
        "tests/inference/test_compare.py",
        "the report of a comparison that is run",
    ),
    "inference/judging/evaluation.py": ("tests/inference/test_evaluate.py", "an evaluation that is run"),
    "inference/judging/evaluation_report.py": (
        "tests/inference/test_evaluate.py",
        "the report of an evaluation that is run",
    ),
    "inference/judging/held_out.py": ("tests/inference/judging/test_verdicts.py", "which rows count for a verdict"),
    "inference/judging/intervals.py": ("tests/inference/judging/test_verdicts.py", "the intervals of a verdict"),
    "inference/judging/options.py": ("tests/inference/test_evaluate.py", "options of evaluate and compare"),
    "inference/models/published.py": ("tests/inference/models/test_load.py", "what is opened before it is loaded"),
    "inference/models/soundness.py": ("tests/inference/models/test_load.py", "what is refused when it is loaded"),
    "inference/playground/line.py": (
        "tests/inference/playground/test_writing.py",
        "who waits while another model writes",
    ),
    "inference/serving/server.py": ("tests/inference/test_serve.py", "a server that is run"),
    "inference/serving/template.py": ("tests/inference/test_serve.py", "the template that a server is given"),
    "train/batching/topics.py": ("tests/train/monitoring/test_recorder.py", "losses by topic are recorded; doctests"),
    "train/config/yaml_files.py": ("tests/train/config/test_run_config.py", "recipes are read through it"),
    "train/distributed/machine.py": ("tests/train/planning/test_memory_advice.py", "memory and cores of this machine"),
    "train/fast/choose.py": (
        "tests/parity/test_fast_paths.py",
        "through the command line: the chosen path against the plain one",
    ),
    "train/fast/frozen_layers.py": ("tests/train/fast/test_activation_cache.py", "the layers whose outputs are cached"),
    "train/fast/label_loss.py": (
        "tests/train/fast/test_last_layer.py",
        "loss at label positions; tests/parity/test_trl.py compares with TRL",
    ),
    "train/fast/shared_prefix.py": (
        "tests/train/generation/test_batched.py",
        "a common beginning, while answers are written",
    ),
    "train/fault_tolerance/guards.py": ("tests/train/distributed/test_heartbeat.py", "a guarded process that hangs"),
    "train/generation/generate.py": (
        "tests/inference/asking/test_generate.py",
        "one implementation, asked through inference",
    ),
    "train/generation/settings.py": ("tests/train/generation/test_batched.py", "settings, by the answers they give"),
    "train/generation/unit_conversions.py": ("tests/train/generation/test_scores.py", "one of the scores; doctests"),
    "train/masking.py": ("tests/test_security.py", "secrets do not reach a file; doctests"),
    "train/methods/trl_options.py": ("tests/train/methods/test_sft.py", "options handed to TRL"),
    "train/model/base.py": ("tests/test_security.py", "what is refused when weights are loaded"),
    "train/monitoring/system_metrics.py": (
        "tests/train/monitoring/test_tracking.py",
        "what trackers are told of the machine",
    ),
    "train/monitoring/trackers.py": ("tests/train/monitoring/test_tracking.py", "each tracker, as a run is tracked"),
    "train/monitoring/watchers.py": ("tests/train/monitoring/test_tracking.py", "gathers who is told of a run"),
    "train/planning/cost.py": ("tests/train/planning/test_predict.py", "the price of what is predicted"),
    "train/planning/count_work.py": (
        "tests/train/planning/test_predict.py",
        "counted work against the prediction; doctests",
    ),
    "train/planning/dry_run.py": ("tests/train/config/test_recipes.py", "a dry run of every recipe"),
    "train/planning/measure.py": ("tests/train/distributed/test_exchange.py", "this machine, measured"),
    "train/planning/outlook.py": ("tests/parity/test_fast_paths.py", "its lines, in the output of runs; doctests"),
    "train/planning/plan_report.py": ("tests/train/planning/test_predict.py", "the report of a plan"),
    "train/planning/sizes.py": ("tests/train/planning/test_predict.py", "sizes that a plan starts from"),
    "train/preflight/checks.py": ("tests/train/preflight/test_preflight.py", "the checks, as a preflight runs them"),
    "train/results/publish.py": ("tests/train/test_main.py", "the published model of a run"),
    "train/results/report/charts.py": ("tests/train/results/report/test_page.py", "charts on the page; doctests"),
    "train/results/report/facts.py": ("tests/train/results/report/test_page.py", "facts on the page"),
    "train/results/summary.py": ("tests/train/test_main.py", "the summary of a run"),
    "train/run.py": ("tests/train/test_main.py", "the run, through the command line"),
    "train/run_folder/provenance.py": ("tests/train/test_main.py", "where a run came from, in its summary"),
    "train/run_folder/saved_weights.py": ("tests/train/run_folder/test_retries.py", "weights written to a full volume"),
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

"""Nothing loads code from data, nothing prints a secret, and what bandit finds is justified file by file.

The other half is where it belongs: paths that lead out of a folder in tests/train/config/test_fuzz.py and
tests/deploy/kube/test_fetch.py, locked-down pods in tests/deploy/jobs/test_pod_rules.py, the image in
tests/deploy/test_image.py.
"""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from train.config.run_config import resolve_config
from train.failure import ConfigError, ModelError, report_failure
from train.masking import masked

ROOT = Path(__file__).parents[1]
PACKAGES = ("data", "train", "inference", "deploy")
TOKEN = "hf_" + "aB3" * 8

CODE_LOADERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CODE_CALLS = {"eval", "exec", "compile", "torch.load", "np.load", "numpy.load", "pd.read_pickle", "yaml.load",
              "yaml.unsafe_load", "os.system", "os.popen"}  # fmt: skip
CODE_OPTIONS = {"trust_remote_code", "allow_pickle", "shell"}

JUSTIFIED = {
    "B101": "assert states our own invariants, never what a user gives",
    "B104": "metrics are scraped from another pod; the NetworkPolicy says by whom",
    "B105": "a path, and the names of counts of tokens",
    "B108": "paths inside the container, where /tmp and /dev/shm are volumes of the pod's own",
    "B113": "a dictionary called `requests`, not the library",
    "B311": "random.Random deals rows and picks samples; it guards nothing",
    "B404": "programs are run by argument lists, never through a shell",
    "B603": "programs are run by argument lists, never through a shell",
    "B606": "a program is run by its argument list, never through a shell",
    "B607": "kubectl, oc and git are found on the user's own PATH",
    "B615": "folders of this machine, or model.revision, set by the user and recorded; weights as safetensors",
}


def modules():
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 50
    return [(path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))) for path in files]


def dangers(tree: ast.AST) -> list[str]:
    """What in a module could run code that came with data."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in CODE_LOADERS]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in CODE_LOADERS:
            found.append(node.module)
        elif isinstance(node, ast.Call):
            found += [name for name in [ast.unparse(node.func)] if name in CODE_CALLS]
            found += [f"{option.arg}=" for option in node.keywords if _is_on(option)]
    return found


def _is_on(option: ast.keyword) -> bool:
    return option.arg in CODE_OPTIONS and not (isinstance(option.value, ast.Constant) and option.value.value is False)


def test_the_search_finds_what_it_is_for():
    bad = "import pickle\nfrom joblib import load\ntorch.load(f)\nf(trust_remote_code=x)\nrun(c, shell=True)\neval(t)"
    assert len(dangers(ast.parse(bad))) == 6
    assert dangers(ast.parse("f(trust_remote_code=False)\nmodel.eval()\nre.compile(p)")) == []


def test_nothing_loads_code():
    assert [(str(path), found) for path, tree in modules() if (found := dangers(tree))] == []


def test_no_option_of_a_run_lets_a_model_bring_code():
    for setting in ("trl.trust_remote_code=true", "model.trust_remote_code=true"):
        try:
            config = resolve_config("smoke", [setting], {}).config
        except ConfigError:
            continue
        from train.methods.trl_options import make_sft_config

        with pytest.raises(ConfigError):
            make_sft_config({}, config.trl)


def test_weights_that_are_a_pickle_are_refused(smoke_run, tmp_path):
    """A folder that would be read by torch.load, had it its way."""
    from train.model.base import load_model, load_tokenizer

    folder = shutil.copytree(smoke_run / "best_model", tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    config = resolve_config("smoke", [f"model.name={folder}", "model.random_init=null"], {}).config
    tokenizer = load_tokenizer(config)
    load_model(config, tokenizer)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        load_model(config, tokenizer)
    (folder / "model.safetensors").write_bytes(b"not at all")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(config, tokenizer)


@pytest.mark.parametrize(
    "text",
    [
        f"401 Client Error: token {TOKEN} is not valid",
        "Authorization: Bearer abcdef.ghi-jkl",
        "https://me:pa55word@registry.example/v2",
        "sk-proj-0123456789abcdefghij",
        "the password is correct-horse",
    ],
)
def test_secrets_are_blotted_out(text):
    shown = masked(text, {"MY_PASSWORD": "correct-horse", "TOKENIZERS_PARALLELISM": "false"})
    assert "***" in shown
    assert not re.search("aB3aB3|abcdef|pa55word|0123456789|correct-horse", shown)


def test_a_failure_shows_no_token_anywhere(tmp_path, monkeypatch, capsys):
    """Neither a known failure nor the traceback of a bug, on stderr or in failure.json."""
    monkeypatch.setenv("HF_TOKEN", "a-token-of-no-known-shape")
    for error in (
        ModelError("the hub refuses a-token-of-no-known-shape"),
        KeyError(f"{TOKEN} a-token-of-no-known-shape"),
    ):
        report_failure(error, phase="model", rank=0, run_folder=tmp_path)
        shown = capsys.readouterr().err + (tmp_path / "failure.json").read_text()
        assert "***" in shown
        assert "no-known-shape" not in shown
        assert TOKEN not in shown


@pytest.mark.parametrize("setting", ["trl.hub_token=abc", "trl.api_key=abc"])
def test_a_secret_is_no_setting(setting):
    with pytest.raises(ConfigError, match="HF_TOKEN"):
        resolve_config("smoke", [setting], {})


def test_what_bandit_finds_is_justified():
    bandit = shutil.which("bandit", path=f"{Path(sys.executable).parent}")
    if bandit is None:
        pytest.skip("bandit is not installed: pip install bandit")
    command = [bandit, "--quiet", "--recursive", "--format", "json", *PACKAGES]
    report = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200).stdout)
    assert report["errors"] == []
    assert report["metrics"]["_totals"]["loc"] > 5000
    found = report["results"]
    unjustified = [
        f"{one['filename']}:{one['line_number']} {one['test_id']} {one['issue_text']}"
        for one in found
        if one["test_id"] not in JUSTIFIED or one["issue_severity"] == "HIGH"
    ]
    assert unjustified == []
    documented = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    assert [check for check, reason in JUSTIFIED.items() if f"| {check} | {reason} |" not in documented] == []

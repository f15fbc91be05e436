"""The command line as a user meets it: a finished run folder, a second call, and every kind of refusal."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from data.dataset import write_dataset
from data.schema import Example, Message
from tests.free_ports import free_port
from train.run_folder.manifest import is_published, verify_manifest
from train.run_folder.run_folder import RunFolder

ROOT = Path(__file__).parents[2]


def test_run_folder_is_complete(smoke_run):
    folder = RunFolder(smoke_run)
    manifest = verify_manifest(folder.best_model)
    assert is_published(folder.best_model)
    assert manifest["base_model"] == "embedded"
    expected = {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "generation_config.json"}
    assert expected | {"system_prompt.txt"} <= manifest["files"].keys()
    summary = json.loads(folder.summary.read_text())
    assert summary["world_size"] == 1
    assert summary["data"]["train_rows"] == 32
    assert summary["evaluation_loss"]["best"] < summary["evaluation_loss"]["original"]
    assert {"training", "publication", "demo"} <= summary["seconds"].keys()
    assert json.loads(folder.status.read_text())["phase"] == "done"
    assert len(json.loads(folder.demo.read_text())["responses"]) == 5
    assert json.loads(folder.config.read_text())["sources"]["optim.epochs"] == "recipe smoke.yaml"
    assert not folder.failure.exists()
    assert not list(smoke_run.rglob(".*"))  # nothing half-written is left


def test_history_falls(smoke_run, history):
    steps = history(smoke_run, "step")
    assert [record["step"] for record in steps] == list(range(1, 9))
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert steps[-1]["percent"] == 100
    assert [record["step"] for record in history(smoke_run, "evaluation")] == [0, 4, 8]
    assert [record["epoch"] for record in history(smoke_run, "epoch")] == [1, 2]


def test_the_published_model_is_the_best_one(smoke_run):
    published = load_file(smoke_run / "best_model" / "model.safetensors")
    best = load_file(smoke_run / "checkpoints" / "best.safetensors")
    assert best
    for name, tensor in best.items():
        assert published[name].equal(tensor), name


def test_golden_trajectory(smoke_run, history):
    """Recorded by `python tests/golden/record_smoke.py`; another processor may differ in the last digits."""
    golden = json.loads((ROOT / "tests" / "golden" / "smoke.json").read_text())
    for kind, names in [("step", ("loss", "grad_norm", "learning_rate")), ("evaluation", ("loss",))]:
        assert len(golden[kind]) == len(history(smoke_run, kind))
        for name in names:
            recorded = [record[name] for record in golden[kind]]
            assert [record[name] for record in history(smoke_run, kind)] == pytest.approx(recorded, rel=1e-4)


def test_a_second_call_does_nothing_and_says_so(smoke_run, run):
    weights = smoke_run / "best_model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    again = run("train", "smoke", f"output.dir={smoke_run}")
    assert again.returncode == 0
    assert "holds this very run, finished" in again.stdout
    assert "Before and after" in again.stdout
    assert weights.stat().st_mtime_ns == before


def test_other_settings_do_not_touch_a_finished_run(smoke_run, run):
    refused = run("train", "smoke", f"output.dir={smoke_run}", "optim.learning_rate=2e-3")
    assert refused.returncode == 2
    assert "optim.learning_rate: 0.001 -> 0.002" in refused.stderr


def test_no_network_is_needed(tmp_path):
    """The whole run with every internet socket forbidden, and no offline variable set from outside."""
    program = (
        "import runpy, socket, sys\n"
        "class Forbidden(socket.socket):\n"
        "    def __init__(self, family=-1, *arguments, **options):\n"
        "        if family in (socket.AF_INET, socket.AF_INET6):\n"
        "            raise RuntimeError('a network connection was tried')\n"
        "        super().__init__(family, *arguments, **options)\n"
        "socket.socket = Forbidden\n"
        "def refuse(*arguments, **options): raise RuntimeError('a name was looked up')\n"
        "socket.getaddrinfo = socket.create_connection = refuse\n"
        f"sys.argv = ['train', 'smoke', 'output.dir={tmp_path}', 'output.max_new_tokens=4', 'optim.epochs=1']\n"
        "runpy.run_module('train', run_name='__main__')\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200
    )
    assert finished.returncode == 0, finished.stderr
    assert is_published(tmp_path / "best_model")


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "says"),
    [
        (["labtop"], {}, 2, "Did you mean 'laptop'?"),
        (["smoke", "optim.epoch=1"], {}, 2, "Did you mean 'optim.epochs'?"),
        (["smoke", "laptop"], {}, 2, "one recipe at a time"),
        (["smoke"], {"EPOCHS": "many"}, 2, "optim.epochs: input should be a valid integer"),
        (["smoke", "trl.adam_betta1=0.9"], {}, 2, "Did you mean 'trl.adam_beta1'?"),
        (["smoke", "distributed.world_size=4"], {}, 2, "made for distributed.world_size=4"),
        (["smoke", "optim.batch_size=auto"], {}, 2, "the rows of a step must be given"),
        (["smoke", "data.max_train_rows=4"], {}, 2, "4 training rows do not fill one effective batch of 8"),
        (["smoke", "data.dataset=none.parquet"], {}, 3, "python -m data build"),
        (["smoke", "data.max_length_tokens=300"], {}, 3, "longer than data.max_length_tokens=300"),
        (["smoke", "model.name=/no/such/model"], {}, 4, "model '/no/such/model' cannot be loaded"),
        (["smoke", "model.attention=flash_attention_2"], {}, 4, "falls back to sdpa"),
        (["smoke", "optim.learning_rate=1e30", "optim.max_grad_norm=0"], {}, 6, "at step"),
        (["smoke"], {"WORLD_SIZE": "4"}, 203, "nothing says where they are"),
    ],
)
def test_refusals(run, tmp_path, arguments, environment, code, says):
    finished = run("train", *arguments, f"output.dir={tmp_path}", "output.demo=false", **environment)
    assert finished.returncode == code, finished.stderr
    last_line = finished.stderr.strip().splitlines()[-1]
    assert last_line.startswith("error: rank 0, ")
    assert says in last_line
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "best_model").exists()


def test_a_failure_is_recorded_in_the_run_folder(run, tmp_path):
    finished = run("train", "smoke", f"output.dir={tmp_path}", "optim.learning_rate=1e30", "optim.max_grad_norm=0")
    assert finished.returncode == 6
    record = json.loads((tmp_path / "failure.json").read_text())
    assert (record["phase"], record["failure_class"], record["rank"]) == ("training", "diverged", 0)
    assert "learning_rate" in record["remedy"]


def test_an_output_folder_that_cannot_be_made(run, tmp_path):
    (tmp_path / "file").touch()
    finished = run("train", "smoke", f"output.dir={tmp_path / 'file' / 'run'}")
    assert finished.returncode == 204
    assert "cannot be written" in finished.stderr


def test_a_lone_rank_gives_up_in_time_naming_the_missing(run, tmp_path):
    alone = {"WORLD_SIZE": "4", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    finished = run("train", "smoke", f"output.dir={tmp_path}", "distributed.rendezvous_timeout_seconds=3", **alone)
    assert finished.returncode == 203
    assert "waited 3 s for all 4 ranks (rendezvous), but rank 1, 2, 3 did not come" in finished.stderr


def test_ranks_with_other_settings_refuse_to_train_together(ranks, tmp_path):
    finished = ranks(2, "smoke", f"output.dir={tmp_path}", per_rank=[["seed=1"], ["seed=2"]])
    assert finished[0].returncode == 2
    assert all("rank 1 differs from rank 0 in seed: 2 against 1" in process.stderr for process in finished)
    assert not (tmp_path / "checkpoints").exists()


def test_a_checkpoint_only_rank_0_can_see_is_sent_to_the_others(ranks, history, tmp_path):
    """ReadWriteOnce: every rank has an output folder of its own. The run is cut back to its first checkpoint."""
    settings = ["smoke", "optim.batch_size=2", "optim.scale_learning_rate=false", "output.demo=false"]
    folders = [[f"output.dir={tmp_path / 'rank0'}"], [f"output.dir={tmp_path / 'rank1'}"]]
    first = ranks(2, *settings, per_rank=folders)
    assert [process.returncode for process in first] == [0, 0], first[0].stderr
    before = history(tmp_path / "rank0", "step")
    (tmp_path / "rank0" / "training_summary.json").unlink()
    (tmp_path / "rank0" / "checkpoints" / "checkpoint-8" / "COMMITTED").unlink()
    assert not (tmp_path / "rank1").exists(), "rank 0 alone writes"
    second = ranks(2, *settings, per_rank=folders)
    assert [process.returncode for process in second] == [0, 0], second[1].stderr
    assert "checkpoint-4" in second[0].stdout
    assert [record["loss"] for record in history(tmp_path / "rank0", "step")] == [record["loss"] for record in before]


def test_help_is_fast_and_names_the_recipes(capsys):
    with pytest.raises(SystemExit) as leaving:
        sys.argv = ["train", "--help"]
        runpy.run_module("train", run_name="__main__")
    assert leaving.value.code == 0
    assert "smollm3-l40s-x4" in capsys.readouterr().out


def test_chat_rows_train_too(run, tmp_path, history):
    turns = [("user", "Which knot?"), ("assistant", "A bowline."), ("user", "Why?"), ("assistant", "It does not slip.")]
    rows = [
        Example(f"Which knot, case {n}?", "It does not slip.", messages=tuple(Message(r, f"{c} {n}") for r, c in turns))
        for n in range(40)
    ]
    write_dataset(rows, tmp_path / "chats.parquet")
    folder = tmp_path / "run"
    settings = ["data.dataset=chats.parquet", f"output.dir={folder}", "output.demo=false", "optim.epochs=1"]
    finished = run("train", "smoke", *settings, DATA_DIR=str(tmp_path))
    assert finished.returncode == 0, finished.stderr
    assert history(folder, "step")

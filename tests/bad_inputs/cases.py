"""What people get wrong, each as a command that is really run, with the exit code that it must end with.

`{dir}` stands for an empty folder, which `prepare` fills.
"""

import contextlib
import gzip
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data.tokenizer import load_chat_tokenizer
from tests.forked_commands import Commands, Finished, clean_environment
from tests.forked_ranks import ROOT
from train.run_folder.manifest import READY, write_manifest

Prepare = Callable[[Path], object]
DISK_BYTES = 192 * 1024
SHORT_WAITS = {"train.run_folder.retries.RETRY_SECONDS": 0.5, "train.methods.exact_loop.RETRY_SECONDS": 0.5}
"""For a full disk that nobody will clean up."""


@dataclass(frozen=True)
class Case:
    """One wrong input. `command` is what follows `python -m`."""

    area: str
    what: str
    code: int
    command: str
    prepare: Prepare = lambda _: None
    environment: dict[str, str] = field(default_factory=dict)
    needs_small_disk: bool = False


@dataclass(frozen=True)
class Outcome:
    case: Case
    finished: Finished
    sentence: str


def file(name: str, content: str | bytes) -> Prepare:
    """A file in the folder."""
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(data)


def table(**columns: list[object]) -> Prepare:
    return lambda folder: pq.write_table(pa.table(columns), folder / "a.parquet")


def rows(count: int) -> str:
    """JSON lines that are fine."""
    texts = ({"question": f"Which knot holds load {n}?", "answer": f"Knot number {n}, well set."} for n in range(count))
    return "".join(json.dumps(row) + "\n" for row in texts)


def model(*, tokenizer: bool = False, **files: str) -> Prepare:
    """A model folder: these files (`config_json` is config.json), and if wanted the embedded model's tokenizer."""

    def make(folder: Path) -> None:
        (folder / "m").mkdir()
        if tokenizer:
            load_chat_tokenizer().save_pretrained(folder / "m")
        for name, content in files.items():
            (folder / "m" / name.replace("_", ".")).write_text(content)

    return make


def published(damage: Callable[[Path], object]) -> Prepare:
    """A run folder with something that looks like a model, damaged."""

    def make(folder: Path) -> None:
        inside = folder / "run" / "best_model"
        inside.mkdir(parents=True)
        (inside / "config.json").write_text("{}")
        (inside / "model.safetensors").write_bytes(bytes(64))
        write_manifest(inside, {"identity": {}})
        (inside / READY).touch()
        damage(inside)

    return make


def listing(name: str) -> Callable[[Path], object]:
    """A manifest that lists a file of that name."""
    manifest = {"files": {name: {"bytes": 1, "sha256": "0" * 64}}}
    return lambda folder: (folder / "manifest.json").write_text(json.dumps(manifest))


SMOKE = "train smoke output.dir={dir}/run output.demo=false"
BUILD = "data build {dir}/a.jsonl --output {dir}/out.parquet"
BUILD_CSV = "data build {dir}/a.csv --output {dir}/out.parquet"
MINE = "train smoke output.dir={dir}/run output.demo=false data.dir={dir} data.dataset=a.parquet"
TUNED = "inference.ask_tuned_model --run {dir}/run why?"
GOOD = '{"question": "Why?", "answer": "So."}\n'
CHAT = '{"messages": [{"role": "%s", "content": "Why?"}, {"role": "%s", "content": "So."}]}\n'
RANKS = {"WORLD_SIZE": "4", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
KUBECONFIG = {"KUBECONFIG": "{dir}/kubeconfig"}


def kubeconfig(server: str) -> Prepare:
    named = {"cluster": "c", "user": "u"}
    content = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": named}],
        "clusters": [{"name": "c", "cluster": {"server": server}}], "users": [{"name": "u", "user": {"token": "t"}}],
    }  # fmt: skip
    return file("kubeconfig", json.dumps(content))


CASES = (
    # Settings
    Case("settings", "a recipe that does not exist", 2, "train labtop"),
    Case("settings", "two recipes", 2, "train smoke laptop"),
    Case("settings", "a recipe file that does not exist", 2, "train {dir}/mine.yaml"),
    Case("settings", "a recipe file that is not YAML", 2, "train {dir}/r.yaml", file("r.yaml", "optim: [1")),
    Case("settings", "a recipe file with a list", 2, "train {dir}/r.yaml", file("r.yaml", "- 1\n")),
    Case("settings", "a recipe file that is not UTF-8", 2, "train {dir}/r.yaml", file("r.yaml", b"seed: \xff\n")),
    Case("settings", "a date that no calendar has, in a recipe file", 2, "train {dir}/r.yaml",
         file("r.yaml", "data: {template_date: 2026-99-99}\n")),
    Case("settings", "a section that is a number", 2, "train {dir}/r.yaml", file("r.yaml", "trl: 3\n")),
    Case("settings", "an unknown key", 2, "train smoke optim.epoch=1"),
    Case("settings", "a setting without a name", 2, "train smoke =3"),
    Case("settings", "a value that is not YAML", 2, "train smoke model.name=["),
    Case("settings", "a word for a number", 2, "train smoke optim.epochs=many"),
    Case("settings", "a negative learning rate", 2, "train smoke optim.learning_rate=-1"),
    Case("settings", "a choice that there is not", 2, "train smoke adapt.head=half"),
    Case("settings", "a date that no calendar has", 2, "train smoke data.template_date=2026-99-99"),
    Case("settings", "an automatic batch without the rows of a step", 2, f"{SMOKE} optim.batch_size=auto"),
    Case("settings", "a step that the micro-batch does not divide", 2,
         f"{SMOKE} optim.effective_batch_size=9 optim.batch_size=4"),
    Case("settings", "an unknown TRL option", 2, f"{SMOKE} trl.adam_betta1=0.9"),
    Case("settings", "fewer rows than a step has", 2, f"{SMOKE} data.max_train_rows=4"),
    Case("settings", "an evaluation that is never reached", 2, f"{SMOKE} evaluation.every_steps=9999"),
    Case("settings", "an unknown device to plan for", 2, "train plan smoke --device t4"),
    Case("settings", "a log that does not exist", 2, "train diagnose {dir}/none.log"),
    # Data
    Case("data", "a source that does not exist", 3, "data build {dir}/none.jsonl --output {dir}/o.parquet"),
    Case("data", "a source of an unknown kind", 3, "data build {dir}/a.xlsx --output {dir}/o.parquet",
         file("a.xlsx", "x")),
    Case("data", "a line that is not JSON", 3, BUILD, file("a.jsonl", GOOD + "{broken\n")),
    Case("data", "a JSON list for a row", 3, BUILD, file("a.jsonl", "[1]\n")),
    Case("data", "a row without an answer", 3, BUILD, file("a.jsonl", '{"question": "Why?"}\n')),
    Case("data", "an empty answer", 3, BUILD, file("a.jsonl", '{"question": "Why?", "answer": " "}\n')),
    Case("data", "a number for an answer", 3, BUILD, file("a.jsonl", '{"question": "Why?", "answer": 3}\n')),
    Case("data", "a NUL character", 3, BUILD, file("a.jsonl", '{"question": "Why?", "answer": "a\\u0000"}\n')),
    Case("data", "half a surrogate pair", 3, BUILD, file("a.jsonl", '{"question": "Why?", "answer": "\\ud800"}\n')),
    Case("data", "text that is not UTF-8", 3, BUILD, file("a.jsonl", b'{"question": "\xff"}\n')),
    Case("data", "a row of 30,000 characters", 3, BUILD,
         file("a.jsonl", json.dumps({"question": "Why?", "answer": "x" * 30_000}))),
    Case("data", "a chat that the user ends", 3, BUILD, file("a.jsonl", CHAT % ("assistant", "user"))),
    Case("data", "a chat without an answer", 3, BUILD,
         file("a.jsonl", '{"messages": [{"role": "user", "content": "Why?"}]}')),
    Case("data", "a file without rows", 3, BUILD, file("a.jsonl", "\n")),
    Case("data", "CSV with a cell too few", 3, BUILD_CSV, file("a.csv", "question,answer\nWhy?\n")),
    Case("data", "CSV with an open quote", 3, BUILD_CSV, file("a.csv", 'question,answer\nWhy?,"So\n')),
    Case("data", "CSV with a column twice", 3, BUILD_CSV, file("a.csv", "answer,answer\na,b\n")),
    Case("data", "a damaged .gz", 3, "data build {dir}/a.jsonl.gz --output {dir}/o.parquet",
         file("a.jsonl.gz", gzip.compress(rows(50).encode())[:40])),
    Case("data", "a Parquet file that is none", 3, "data build {dir}/a.parquet --output {dir}/o.parquet",
         file("a.parquet", "PAR1 no PAR1")),
    Case("data", "more bad rows than may be dropped", 3, f"{BUILD} --on-error drop", file("a.jsonl", GOOD + "[1]\n")),
    Case("data", "a hub data set without a network", 3, "data build hf://owner/none --output {dir}/o.parquet"),
    Case("data", "an unknown column name", 2, f"{BUILD} --columns ask=Q", file("a.jsonl", GOOD)),
    Case("data", "no data set", 3, MINE),
    Case("data", "a data set that is not Parquet", 3, MINE, file("a.parquet", "rows")),
    Case("data", "a Parquet file of something else", 3, MINE, table(x=[1])),
    Case("data", "a data set without rows", 3, MINE, lambda folder: pq.write_table(
        pa.table({"full-question": pa.array([], pa.string()), "answer": pa.array([], pa.string())}),
        folder / "a.parquet")),
    Case("data", "a null in a data set", 3, MINE, table(**{"full-question": ["Why?"], "answer": [None]})),
    Case("data", "a system prompt that does not exist", 3, f"{SMOKE} data.system_prompt={{dir}}/none.txt"),
    Case("data", "an empty system prompt", 3, f"{SMOKE} data.system_prompt={{dir}}/p.txt", file("p.txt", "\n")),
    Case("data", "rows longer than what is trained on", 3, f"{SMOKE} data.max_length_tokens=300"),
    # Models
    Case("model", "a folder that does not exist", 4, f"{SMOKE} model.name=/no/such/model"),
    Case("model", "a folder without a model", 4, f"{SMOKE} model.name={{dir}}/m", model()),
    Case("model", "a folder without a tokenizer", 4, f"{SMOKE} model.name={{dir}}/m",
         model(config_json='{"model_type": "llama"}')),
    Case("model", "a broken tokenizer.json", 4, f"{SMOKE} model.name={{dir}}/m",
         model(config_json='{"model_type": "llama"}', tokenizer_json="{")),
    Case("model", "a tokenizer.json of something else", 4, f"{SMOKE} model.name={{dir}}/m",
         model(config_json='{"model_type": "llama"}', tokenizer_json="{}")),
    Case("model", "a broken config.json", 4, f"{SMOKE} model.name={{dir}}/m model.random_init=null",
         model(tokenizer=True, config_json="{")),
    Case("model", "an unknown architecture", 4, f"{SMOKE} model.name={{dir}}/m model.random_init=null",
         model(tokenizer=True, config_json='{"model_type": "none"}')),
    Case("model", "a .gguf file that is none", 4, f"{SMOKE} model.name={{dir}}/a.gguf", file("a.gguf", "none")),
    Case("model", "a .gguf file that does not exist", 4, f"{SMOKE} model.name={{dir}}/none.gguf"),
    Case("model", "a hub id without a network", 4, f"{SMOKE} model.name=owner/none"),
    Case("model", "flash attention on a CPU", 4, f"{SMOKE} model.attention=flash_attention_2"),
    Case("model", "an original that does not exist", 4, "inference.ask_original_model --model /nope why?"),
    Case("model", "a run folder that does not exist", 4, TUNED),
    Case("model", "a run that has published nothing", 4, TUNED, lambda folder: (folder / "run").mkdir()),
    Case("model", "a model without its READY marker", 4, TUNED, published(lambda model: (model / READY).unlink())),
    Case("model", "a model with a changed file", 4, TUNED,
         published(lambda model: (model / "model.safetensors").write_bytes(bytes(63) + b"x"))),
    Case("model", "a model with a cut file", 4, TUNED,
         published(lambda model: (model / "model.safetensors").write_bytes(b"x"))),
    Case("model", "a model with a missing file", 4, TUNED,
         published(lambda model: (model / "model.safetensors").unlink())),
    Case("model", "a manifest that is not JSON", 4, TUNED,
         published(lambda model: (model / "manifest.json").write_text("{"))),
    Case("model", "a manifest that is a list", 4, TUNED,
         published(lambda model: (model / "manifest.json").write_text("[]"))),
    Case("model", "a manifest that leads out of its folder", 4, TUNED, published(listing("../../../secret"))),
    Case("model", "an empty question", 2, "inference.ask_original_model --model /nope ''"),
    Case("model", "a temperature for a greedy answer", 2,
         "inference.ask_original_model --model /nope --temperature 1 why?"),
    # Volumes
    Case("volume", "an output folder below a file", 204, SMOKE, file("run", "")),
    Case("volume", "an output folder in /proc", 204, "train smoke output.dir=/proc/run"),
    Case("volume", "a data set to be written below a file", 204,
         "data build data/qa_dataset.jsonl --output {dir}/file/o.parquet", file("file", "")),
    Case("volume", "a full disk while data is built", 204,
         "data build {dir}/a.jsonl --output {dir}/disk/o.parquet", file("a.jsonl", rows(5000)), needs_small_disk=True),
    Case("volume", "a full disk while training", 204, "train smoke output.dir={dir}/disk/run output.demo=false "
         "data.max_train_rows=8 data.max_validation_rows=4", needs_small_disk=True),
    # Environment and network
    Case("environment", "EPOCHS=many", 2, "train smoke", environment={"EPOCHS": "many"}),
    Case("environment", "WORLD_SIZE=four", 2, SMOKE, environment={"WORLD_SIZE": "four"}),
    Case("environment", "a rank that the job does not have", 2, SMOKE, environment={**RANKS, "RANK": "7"}),
    Case("environment", "a port that is a word", 2, SMOKE, environment={**RANKS, "MASTER_PORT": "http"}),
    Case("environment", "another number of ranks than the recipe's", 2, f"{SMOKE} distributed.world_size=4"),
    Case("network", "peers that nobody has named", 203, SMOKE, environment={"WORLD_SIZE": "4"}),
    Case("network", "a master whose name nobody knows", 203, f"{SMOKE} distributed.rendezvous_timeout_seconds=1",
         environment={**RANKS, "RANK": "1", "MASTER_ADDR": "nowhere.invalid"}),
    Case("network", "a master that does not answer", 203, f"{SMOKE} distributed.rendezvous_timeout_seconds=1",
         environment={**RANKS, "RANK": "1"}),
    # Training itself
    Case("training", "a learning rate of 1e30", 6, f"{SMOKE} optim.learning_rate=1e30 optim.max_grad_norm=0 "
         "data.max_train_rows=16 data.max_validation_rows=4"),
    # Clusters
    Case("cluster", "a profile that does not exist", 2, "deploy render cpu-smok"),
    Case("cluster", "a key that no profile has", 2, "deploy render cpu-smoke --set gpus=1"),
    Case("cluster", "a profile file that is not YAML", 2, "deploy render {dir}/p.yaml", file("p.yaml", "job: [")),
    Case("cluster", "an image without a version", 2, "deploy render cpu-smoke --image registry/a:latest"),
    Case("cluster", "memory in a unit that there is not", 2, "deploy render cpu-smoke --set resources.memory=20GB"),
    Case("cluster", "more ranks than the recipe is for", 2, "deploy render openshift-ai --set pods=2"),
    Case("cluster", "an output folder that is not on the volume", 2,
         "deploy render cpu-smoke --set output.dir=/tmp/run"),
    Case("cluster", "no kubeconfig", 10, "deploy status cpu-smoke", environment=KUBECONFIG),
    Case("cluster", "a context that does not exist", 10, "deploy status cpu-smoke --context none",
         kubeconfig("http://127.0.0.1:1"), KUBECONFIG),
    Case("cluster", "a kubeconfig that is not YAML", 10, "deploy status cpu-smoke", file("kubeconfig", "{"),
         KUBECONFIG),
)  # fmt: skip


def outcomes(folder: Path) -> Iterator[Outcome]:
    """Run every case that this machine can run."""
    with Commands(SHORT_WAITS) as commands:
        for number, case in enumerate(CASES):
            place = folder / f"case-{number}"
            place.mkdir()
            with small_disk(place / "disk") if case.needs_small_disk else contextlib.nullcontext(True) as there:
                if there:
                    yield run(case, place, commands)


def run(case: Case, place: Path, commands: Commands) -> Outcome:
    case.prepare(place)
    module, *arguments = (word.replace("{dir}", str(place)).replace("''", "") for word in case.command.split())
    environment = {name: value.replace("{dir}", str(place)) for name, value in case.environment.items()}
    finished = commands.run(module, *arguments, environment=clean_environment(COLUMNS="400", **environment))
    return Outcome(case, finished, sentence(finished.stderr, place))


def sentence(stderr: str, place: Path) -> str:
    """The last line that says something, alike on every machine; of a box that typer draws, what is in it."""
    lines = [line.strip("│╭╰╮╯─ ") for line in stderr.splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    last = last.replace(str(place), "DIR").replace(f"{ROOT}/", "")
    last = re.sub(r"\d[\d.,]* (bytes|[KMG]iB)", r"N \1", last)
    last = re.sub(r"\bpid \d+", "pid N", last)
    return re.sub(r"\s+", " ", last)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A file system with room for next to nothing; false where we may not mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, timeout=20).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=20)

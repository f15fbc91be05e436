"""Every known failure is recognised in a log such as a run leaves, and nothing is seen in a healthy one."""

import json

import pytest

from train.failure import ConfigError, PeerLostError, report_failure
from train.results.diagnose import describe, diagnose, known_failures, read_log

BEFORE = [
    "model      embedded, 35.4 M trainable = 26.31 % of the base model's 134.5 M",
    "batch      8 x 2 accumulation x 4 rank(s) = 64 rows a step",
    "step 1/160  0.6 %  loss 3.7160  ppl 41.10  lr 1.25e-06  grad 4.031  9.10 rows/s  2,031 tok/s  2.1 GiB  9 min left",
]
AFTER = ["Traceback (most recent call last):", '  File "/app/train/run.py", line 60, in run', "    trainer.train()"]

SAID = {
    "hub refuses the token (401)": "HfHubHTTPError: 401 Client Error: Unauthorized for url: https://huggingface.co/api/x",
    "gated model (403)": "403 Client Error. Cannot access gated repo for url https://huggingface.co/org/model/config.json",
    "no such model (404)": "404 Client Error. Repository Not Found for url: https://huggingface.co/api/models/org/modle",
    "hub limits requests (429)": "HTTPStatusError: Client error '429 Too Many Requests' for url 'https://hub/model'",
    "hub cannot be reached": "OSError: We couldn't connect to 'https://huggingface.co' to load the files",
    "certificate not trusted": "ssl.SSLError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed (_ssl.c:1006)",
    "no usable chat template": "error: rank 0, data: org/base has no single chat template; fine-tune an instruct model",
    "architecture not known": "ValueError: type `new` but Transformers does not recognize this architecture.",
    "tokenizer and weights do not match": "size mismatch for model.embed_tokens.weight: copying a param of shape [9]",
    "weights file damaged": "safetensors_rust.SafetensorError: Error while deserializing header: header too large",
    "GPU out of memory": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.96 GiB. GPU 0 has 44 GiB",
    "host out of memory": "State: Terminated  Reason: OOMKilled  Exit Code: 137",
    "shared memory too small": "ERROR: Unexpected bus error encountered in worker. This might be caused by shm",
    "disk full": "OSError: [Errno 28] No space left on device: '/out/checkpoints/checkpoint-40/optimizer.pt'",
    "quota used up": "OSError: [Errno 122] Disk quota exceeded: '/home/u/.cache/x'",
    "read-only file system": "OSError: [Errno 30] Read-only file system: '/app/outputs'",
    "stale file handle": "OSError: [Errno 116] Stale file handle: '/mnt/out/status.json'",
    "permission denied": "PermissionError: [Errno 13] Permission denied: '/.cache'",
    "user without a name": "KeyError: 'getpwuid(): uid not found: 1000660000'",
    "no driver for this CUDA": "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).",
    "GPU kernel missing": "RuntimeError: CUDA error: no kernel image is available for execution on the device",
    "GPU fault": "RuntimeError: CUDA error: uncorrectable ECC error encountered",
    "versions differ between ranks": "error: rank 2, agreement: rank 1 differs from rank 0 in packages: 'torch 2.8'",
    "ranks differ": "error: rank 0, agreement: rank 1 differs from rank 0 in seed: 2 against 1. All ranks must run",
    "packages do not fit together": "ImportError: cannot import name 'SFTConfig' from 'trl' (/usr/lib/trl/__init__.py)",
    "master name not resolved": "socket.gaierror: [Errno -2] Name or service not known",
    "rank 0 not reached": "could not reach rank 0 at job-master-0:23456 within 900 s ([Errno 111] Connection refused)",
    "port taken": "The server socket has failed to bind to [::]:29500 (errno: 98 - Address already in use).",
    "a rank did not come": "waited 900 s for all 4 ranks (rendezvous), but rank 2, 3 did not come",
    "NCCL cannot connect": "pod-1:77:120 [0] NCCL WARN Bootstrap : no socket interface found",
    "collective timed out": "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(OpType=ALLREDUCE)",
    "training diverged": "error: rank 0, training: the training loss became nan at step 31. Lower optim.learning_rate",
    "rows too long": "40 of 100 rows are longer than data.max_length_tokens=300 (the longest has 512 tokens)",
    "another run in the folder": "error: rank 0, agreement: /out holds a run with other settings (seed: 2 -> 3)",
    "image cannot be pulled": "Warning  Failed  Error: ImagePullBackOff",
    "no node for the pod": "Warning  FailedScheduling  0/6 nodes are available: 6 Insufficient nvidia.com/gpu.",
    "stopped on request": "stopped: rank 0, training: stopped at step 9, saved. Start again. [exit 143: stopped]",
    "peer lost": "RuntimeError: [gloo/transport/tcp/pair.cc:538] Connection closed by peer [10.1.0.4]:3312",
}


def test_there_is_a_log_for_every_known_failure():
    assert [known.name for known in known_failures()] == list(SAID)
    assert len(SAID) >= 20


@pytest.mark.parametrize("name", SAID)
def test_each_is_recognised_with_cause_and_cure(name):
    found = diagnose([*BEFORE, SAID[name], *AFTER])
    assert [diagnosis.failure.name for diagnosis in found] == [name]
    assert found[0].line_number == len(BEFORE) + 1
    told = describe("run.log", found)
    assert told.startswith(f"run.log:4: {name}\n")
    assert found[0].failure.cause in told
    assert found[0].failure.cure in told


def test_a_healthy_log_holds_none():
    assert not diagnose(
        [*BEFORE, "evaluation at step 80: loss 3.3780  perplexity 29.31", "resuming from checkpoint-40"]
    )


def test_the_cause_comes_before_what_follows_from_it():
    found = diagnose([SAID["peer lost"], SAID["disk full"], SAID["disk full"]])
    assert [(diagnosis.failure.name, diagnosis.line_number) for diagnosis in found] == [
        ("disk full", 2),
        ("peer lost", 1),
    ]


def test_a_run_folder_is_read_by_its_failure_record_and_logs(tmp_path, capsys):
    with pytest.raises(ConfigError, match=r"neither failure.json nor a log"):
        list(read_log(str(tmp_path)))
    report_failure(PeerLostError(SAID["peer lost"]), phase="training", rank=1, run_folder=tmp_path)
    (tmp_path / "rank0.log").write_text(SAID["disk full"])
    (tmp_path / "training_history.json").write_text("[]")
    found = {name: [one.failure.name for one in diagnose(lines)] for name, lines in read_log(str(tmp_path))}
    assert found == {str(tmp_path / "failure.json"): ["peer lost"], str(tmp_path / "rank0.log"): ["disk full"]}


def test_a_damaged_failure_record_is_read_as_text(tmp_path):
    for text in ('{"message": "disk quota exceeded', json.dumps(["Disk quota exceeded"])):
        (tmp_path / "failure.json").write_text(text)
        assert [one.failure.name for _, lines in read_log(str(tmp_path)) for one in diagnose(lines)] == [
            "quota used up"
        ]


def test_a_log_of_any_bytes_is_read(tmp_path):
    log = tmp_path / "run.log"
    log.write_bytes(b"\xff\xfe\x00" + SAID["disk full"].encode() + b"\r\x1b[2K" + b"x" * 10**6)
    assert [one.failure.name for _, lines in read_log(str(log)) for one in diagnose(lines)] == ["disk full"]


def test_the_command(run, tmp_path):
    log = tmp_path / "run.log"
    for text, code, says in [
        (SAID["port taken"], 0, "choose another MASTER_PORT"),
        ("all well", 1, "no known failure"),
    ]:
        log.write_text(text)
        finished = run("train", "diagnose", str(log))
        assert finished.returncode == code, finished.stderr
        assert says in finished.stdout
        assert not finished.stderr
    finished = run("train", "diagnose", str(tmp_path / "none.log"))
    assert finished.returncode == 2
    assert "none.log cannot be read (No such file or directory)" in finished.stderr

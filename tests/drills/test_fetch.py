"""Bringing the model back when something goes wrong on the way: nothing is trusted that is not the published file."""

import os
import re
import shutil
import signal
import time

import pytest

from tests.cluster.kinds import CLAIM, POD
from train.run_folder.manifest import READY, verify_manifest, write_manifest

NAMESPACE, NAME, CLAIM_NAME = "fieldcraft", "fieldcraft-smoke", "fieldcraft-smoke-output"
IMAGE = "localhost/fieldcraft:dev"
WEIGHTS = "model.safetensors"
NUM_BYTES, BYTES_PER_SECOND = 6_000_000, 2_000_000
SECONDS = 200
INCOMPLETE, INTERRUPTED = 15, 130


@pytest.fixture
def published(cluster):
    """A published model on the volume, without a job that made it. Its weights are random bytes."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: files are read through it")
    claim = {"metadata": {"name": CLAIM_NAME, "namespace": NAMESPACE}, "spec": {"accessModes": ["ReadWriteOnce"]}}
    claim["spec"]["resources"] = {"requests": {"storage": "1Gi"}}
    cluster.create(CLAIM, claim)
    model = cluster.folder_of(NAMESPACE, CLAIM_NAME) / NAME / "best_model"
    model.mkdir(parents=True)
    (model / WEIGHTS).write_bytes(os.urandom(NUM_BYTES))
    (model / "config.json").write_text("{}")
    write_manifest(model, {})
    (model / READY).touch()
    return model


@pytest.fixture
def part(tmp_path):
    return tmp_path / "out/best_model" / f"{WEIGHTS}.part"


def half_way(cluster, part):
    cluster.wait_until(lambda: part.is_file() and part.stat().st_size > NUM_BYTES / 10, SECONDS, "for some bytes")


def num_received(output):
    return int(re.search(r"\(([\d,]+) bytes received\)", output)[1].replace(",", ""))


def test_corrupted_file_on_the_volume_is_found_and_a_mended_one_fetched(cluster, deploy, published, tmp_path):
    weights = published / WEIGHTS
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    ended = deploy("fetch", "cpu-smoke", "--output", str(tmp_path / "out"))
    assert ended.returncode == INCOMPLETE, ended.stderr
    assert f"best_model/{WEIGHTS} is corrupt on the volume" in ended.stderr
    assert not cluster.select(POD)  # the reading pod is gone
    weights.write_bytes(good)
    ended = deploy("fetch", "cpu-smoke", "--output", str(tmp_path / "out"))
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out/best_model" / WEIGHTS).read_bytes() == good


def test_ctrl_c_while_the_pod_starts_removes_it(cluster, start, published, tmp_path):
    cluster.backend.missing_images.add(IMAGE)
    fetching = start("fetch", "cpu-smoke", "--output", str(tmp_path / "out"))
    cluster.wait_until(lambda: cluster.select(POD), SECONDS)
    fetching.send_signal(signal.SIGINT)
    output, _ = fetching.communicate(timeout=SECONDS)
    assert fetching.returncode == INTERRUPTED, output
    cluster.wait_until(lambda: not cluster.select(POD), SECONDS)


def test_a_pod_that_does_not_start_is_explained(cluster, deploy, published, tmp_path):
    cluster.backend.missing_images.add(IMAGE)
    ended = deploy("fetch", "cpu-smoke", "--output", str(tmp_path / "out"), "--start-timeout", "2")
    assert ended.returncode == INCOMPLETE, ended.stderr
    assert "the image cannot be pulled" in ended.stderr
    assert not cluster.select(POD)


def test_ctrl_c_in_mid_transfer_and_going_on_from_there(cluster, deploy, start, published, part):
    cluster.slow_down_exec(BYTES_PER_SECOND)
    folder = str(part.parents[1])
    fetching = start("fetch", "cpu-smoke", "--output", folder)
    half_way(cluster, part)
    fetching.send_signal(signal.SIGINT)
    output, _ = fetching.communicate(timeout=SECONDS)
    assert fetching.returncode == INTERRUPTED, output
    assert "what has arrived stays; start again and it goes on from there" in output
    cluster.wait_until(lambda: not cluster.select(POD), SECONDS)
    arrived = part.stat().st_size
    assert 0 < arrived < NUM_BYTES
    assert not (part.parent / READY).exists()
    cluster.slow_down_exec(float("inf"))
    again = deploy("fetch", "cpu-smoke", "--output", folder)
    assert again.returncode == 0, again.stderr
    assert NUM_BYTES - arrived <= num_received(again.stderr) < NUM_BYTES - arrived + 10_000
    assert verify_manifest(part.parent)["files"].keys() == {WEIGHTS, "config.json"}
    assert (part.parent / READY).is_file()


def test_a_connection_that_breaks_in_mid_transfer_is_taken_up(cluster, start, published, part):
    cluster.slow_down_exec(BYTES_PER_SECOND)
    fetching = start("fetch", "cpu-smoke", "--output", str(part.parents[1]))
    half_way(cluster, part)
    cluster.go_down()
    time.sleep(1)
    cluster.slow_down_exec(float("inf"))
    cluster.come_up()
    output, _ = fetching.communicate(timeout=SECONDS)
    assert fetching.returncode == 0, output
    assert re.search(rf"{WEIGHTS}: broke off at \d+ of {NUM_BYTES} bytes; going on from there", output), output
    assert num_received(output) < NUM_BYTES + 10_000
    assert verify_manifest(part.parent)

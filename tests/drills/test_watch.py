"""What `watch` and `status` make of a job in trouble: the sentence, the exit code, whether it starts the job again."""

import signal
import time

import pytest

from tests.cluster.kinds import JOB, NODE, POD, QUOTA

NAMESPACE, NAME, MASTER = "fieldcraft", "fieldcraft-smoke", "fieldcraft-smoke-master-0"
IMAGE = "localhost/fieldcraft:dev"
SECONDS = 280
USAGE, DATA, UNREACHABLE, INCOMPLETE, INTERRUPTED, KILLED = 2, 3, 10, 15, 130, 137
ONE_POD = ("--set", "pods=1")
SUPERVISED = (*ONE_POD, "--set", "restart.policy=supervised", "--set", "restart.times=1")
QUICK = ("--set", "optim.epochs=1", "--set", "data.max_train_rows=8", "--set", "data.max_validation_rows=4",
         "--set", "output.demo=false")  # fmt: skip
ENDLESS = (*ONE_POD, "--set", "optim.epochs=1000")  # no test waits for its end

pytestmark = pytest.mark.timeout(700)


def running(cluster):
    """Wait until the master runs, and return its uid."""
    cluster.wait_until(lambda: cluster.phase_of(NAMESPACE, MASTER) == "Running", SECONDS, "for the master")
    return cluster.get(POD, NAMESPACE, MASTER)["metadata"]["uid"]


def await_request(cluster, path, num_asked):
    """Wait for a request that has this in its path, after the first so many."""
    cluster.wait_until(lambda: any(path in asked for _, asked in cluster.server.requests[num_asked:]), SECONDS)


def no_quota(cluster):
    metadata = {"name": "none", "namespace": NAMESPACE}
    cluster.create(QUOTA, {"metadata": metadata, "spec": {"hard": {"pods": "0"}}})


@pytest.mark.parametrize(
    ("prepare", "settings", "sentence"),
    [
        (lambda cluster: cluster.remove_all(NODE), (), "0/0 nodes are available"),
        (lambda cluster: cluster.backend.missing_images.add(IMAGE), (), "the image cannot be pulled"),
        (no_quota, (), "quota exceeded, so pods cannot be created"),
        (
            lambda _: None,
            ("--set", "output_volume.storage_class=fast"),
            f"volume claim {NAME}-output is pending: storage class 'fast' gives it no volume",
        ),
    ],
    ids=["no node", "no image", "quota", "volume"],
)
def test_a_job_that_does_not_start_is_given_up_when_told_to(cluster, deploy, prepare, settings, sentence):
    prepare(cluster)
    assert deploy("apply", "cpu-smoke", *settings).returncode == 0
    ended = deploy("watch", "cpu-smoke", *settings, "--start-timeout", "3")
    assert ended.returncode == INCOMPLETE, ended.stderr
    last_line = ended.stderr.splitlines()[-1]
    assert f"error: 0 of 4 pods of job {NAME} have started after 3 s: " in last_line
    assert sentence in last_line
    assert cluster.select(JOB)
    assert sentence in deploy("status", "cpu-smoke", *settings).stdout


def test_worker_out_of_memory_is_named(cluster, deploy):
    assert deploy("apply", "cpu-smoke", "--set", "pods=2").returncode == 0
    worker = f"{NAME}-worker-0"
    cluster.wait_until(lambda: cluster.phase_of(NAMESPACE, worker) == "Running", SECONDS)
    cluster.kill(NAMESPACE, worker, out_of_memory=True)
    cluster.wait_until(
        lambda: cluster.get(POD, NAMESPACE, worker)["status"]["containerStatuses"][0]["lastState"], SECONDS
    )
    shown = deploy("status", "cpu-smoke").stdout
    assert "OOMKilled" in shown or "out of memory" in shown, shown


def test_out_of_memory_is_tried_again_as_often_as_told_and_then_the_exit_code(cluster, deploy, start):
    assert deploy("apply", "cpu-smoke", *SUPERVISED).returncode == 0
    first = running(cluster)
    watching = start("watch", "cpu-smoke", *SUPERVISED)
    cluster.kill(NAMESPACE, MASTER, out_of_memory=True)
    cluster.wait_until(lambda: cluster.phase_of(NAMESPACE, MASTER) == "Running" and running(cluster) != first, SECONDS)
    cluster.kill(NAMESPACE, MASTER, out_of_memory=True)
    output, _ = watching.communicate(timeout=SECONDS)
    assert watching.returncode == KILLED, output
    assert output.count("starting it again, 0 more time(s) at most") == 1
    assert f"the job failed: {MASTER} (rank 0) ended with exit 137: killed for using more memory" in output
    assert f"python -m deploy logs cpu-smoke {' '.join(SUPERVISED)} --all [exit 137]" in output


def test_supervised_job_is_started_again_and_succeeds(cluster, deploy, start):
    assert deploy("apply", "cpu-smoke", *SUPERVISED, *QUICK).returncode == 0
    first = running(cluster)
    spec = cluster.get(JOB, NAMESPACE, NAME)["spec"]
    assert spec["pytorchReplicaSpecs"]["Master"]["restartPolicy"] == "Never"
    watching = start("watch", "cpu-smoke", *SUPERVISED, *QUICK)
    cluster.kill(NAMESPACE, MASTER)
    output, _ = watching.communicate(timeout=SECONDS)
    assert watching.returncode == 0, f"{output}\n{cluster.overview()}"
    assert "starting it again, 0 more time(s) at most" in output
    assert "the job succeeded" in output
    assert cluster.get(POD, NAMESPACE, MASTER)["metadata"]["uid"] != first
    assert cluster.get(JOB, NAMESPACE, NAME)["spec"] == spec


def test_bad_setting_that_only_the_pod_can_find(cluster, deploy):
    """An option of TRL's, which is not installed where `deploy` runs."""
    settings = (*SUPERVISED, "--set", "trl.adam_betta1=0.9")
    assert deploy("apply", "cpu-smoke", *settings).returncode == 0
    ended = deploy("watch", "cpu-smoke", *settings)
    assert ended.returncode == USAGE, ended.stdout + ended.stderr
    assert f"the job failed: {MASTER} (rank 0) ended with exit 2: " in ended.stderr
    assert "Did you mean 'trl.adam_beta1'?" in ended.stderr
    assert "starting it again" not in ended.stdout


def test_bad_data_that_restarts_in_place_for_ever_is_an_end(cluster, deploy):
    settings = (*ONE_POD, "--set", "data.dataset=/nowhere.parquet")
    assert deploy("apply", "cpu-smoke", *settings).returncode == 0
    ended = deploy("watch", "cpu-smoke", *settings)
    assert ended.returncode == DATA, ended.stdout + ended.stderr
    assert f"the job cannot work: {MASTER} (rank 0) ended with exit 3" in ended.stderr
    assert "/nowhere.parquet" in ended.stderr  # the pod's own sentence
    assert "correct it and apply --replace" in ended.stderr


@pytest.mark.parametrize("seconds", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_watch_survives_a_lost_api_server_and_passes_the_exit_code_on(cluster, deploy, start, seconds):
    settings = (*SUPERVISED, "--set", "data.dataset=/nowhere.parquet")
    cluster.backend.missing_images.add(IMAGE)  # the pod fails soon after its start: it starts once it is watched
    applied = deploy("apply", "cpu-smoke", *settings)
    assert applied.returncode == 0, applied.stderr
    num_asked = len(cluster.server.requests)
    watching = start("watch", "cpu-smoke", *settings)
    await_request(cluster, "/persistentvolumeclaims", num_asked)
    cluster.backend.missing_images.clear()
    running(cluster)
    cluster.go_down()
    time.sleep(seconds)
    cluster.come_up()
    output, _ = watching.communicate(timeout=SECONDS)
    assert watching.returncode == DATA, output
    assert "the cluster answers again" in output
    assert "/nowhere.parquet" in output


def test_watch_gives_up_on_a_cluster_that_stays_silent(cluster, deploy, start):
    cluster.remove_all(NODE)
    assert deploy("apply", "cpu-smoke").returncode == 0
    watching = start("watch", "cpu-smoke", "--patience", "2")
    assert "Created" in watching.stdout.readline()
    cluster.go_down()
    output, _ = watching.communicate(timeout=SECONDS)
    assert watching.returncode == UNREACHABLE, output
    assert "trying again for 2 s" in output
    assert "cannot be reached" in output.splitlines()[-1]


@pytest.mark.parametrize("command", [("watch",), ("logs", "--follow")], ids=["watch", "logs"])
def test_ctrl_c_leaves_the_job_alone(cluster, deploy, start, command):
    assert deploy("apply", "cpu-smoke", *ENDLESS).returncode == 0
    running(cluster)
    name, *options = command
    num_asked = len(cluster.server.requests)
    following = start(name, "cpu-smoke", *ENDLESS, *options)
    await_request(cluster, "/log" if name == "logs" else "/persistentvolumeclaims", num_asked)
    following.send_signal(signal.SIGINT)
    output, _ = following.communicate(timeout=SECONDS)
    assert following.returncode == INTERRUPTED, output
    assert "the job goes on" in output
    assert cluster.select(JOB)
    assert cluster.select(POD)

"""The operator emulation does what is known of the real one, fact by fact."""

import json

import pytest

from tests.cluster.jobs import NAMESPACE, job
from tests.cluster.kinds import CLAIM, JOB, NETWORK_POLICY, POD, QUOTA, SERVICE
from tests.cluster.selectors import field_at
from tests.cluster.status import ApiError

SECONDS = 20


def types_of(status):
    return [(condition["type"], condition["status"]) for condition in status.get("conditions", ())]


def restart_count(cluster, pod):
    return cluster.get(POD, NAMESPACE, pod)["status"]["containerStatuses"][0]["restartCount"]


def is_running(cluster, *pods):
    return all(cluster.phase_of(NAMESPACE, pod) == "Running" for pod in pods)


def without(item, *path):
    *parents, last = path
    for name in parents:
        item = item[name]
    del item[last]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda j: without(j["spec"]["pytorchReplicaSpecs"]["Master"], "replicas"), "[Master].replicas: Invalid value"),
        (lambda j: j["spec"]["pytorchReplicaSpecs"].update(Chief={"replicas": 1}), 'Not supported value: "Chief"'),
        (lambda j: j["metadata"].update(name="9lives"), "a DNS-1035 label"),
        (
            lambda j: j["spec"]["pytorchReplicaSpecs"]["Worker"].update(replicas=0),
            "[Worker].replicas: Invalid value: 0: must be at least 1",
        ),
        (
            lambda j: j["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0].update(
                name="main"
            ),
            "at least one container with name pytorch",
        ),
    ],
)
def test_webhook_refuses(cluster, change, sentence):
    broken = job()
    change(broken)
    with pytest.raises(ApiError, match=r"admission webhook .* denied the request") as refusal:
        cluster.create(JOB, broken)
    assert refusal.value.code == 403
    assert sentence in refusal.value.message


def test_nproc_per_node_must_be_text(cluster):
    broken = job()
    broken["spec"]["nprocPerNode"] = 1
    with pytest.raises(ApiError, match=r"spec\.nprocPerNode in body must be of type string") as refusal:
        cluster.create(JOB, broken)
    assert refusal.value.code == 422


def test_pods_services_and_policy(cluster):
    cluster.create(JOB, job(workers=2))
    names = ["tune-master-0", "tune-worker-0", "tune-worker-1"]
    cluster.wait_until(lambda: is_running(cluster, *names), SECONDS)
    assert [pod["metadata"]["name"] for pod in cluster.pods_of(NAMESPACE, "tune")] == names
    assert [service["metadata"]["name"] for service in cluster.select(SERVICE, NAMESPACE)] == names
    service = cluster.get(SERVICE, NAMESPACE, "tune-worker-1")
    assert service["spec"]["clusterIP"] == "None"
    assert [(port["name"], port["port"]) for port in service["spec"]["ports"]] == [("pytorchjob-port", 23456)]
    labels = cluster.get(POD, NAMESPACE, "tune-worker-1")["metadata"]["labels"]
    assert {
        name: labels.get(f"training.kubeflow.org/{name}") for name in ("job-name", "replica-type", "replica-index")
    } == {
        "job-name": "tune",
        "replica-type": "worker",
        "replica-index": "1",
    }
    assert "training.kubeflow.org/job-role" not in labels
    master = cluster.get(POD, NAMESPACE, "tune-master-0")
    assert master["metadata"]["labels"]["training.kubeflow.org/job-role"] == "master"
    policy = cluster.get(NETWORK_POLICY, NAMESPACE, "tune")
    assert policy["spec"]["ingress"][1]["ports"] == [{"protocol": "TCP", "port": 8080}]
    init = cluster.get(POD, NAMESPACE, "tune-worker-0")["spec"]["initContainers"]
    assert [container["name"] for container in init] == ["init-pytorch"]
    assert "initContainers" not in master["spec"]


def test_operators_variables_win_and_local_rank_is_not_among_them(cluster):
    script = (
        'python -c "import json, os; print(json.dumps({n: v for n, v in os.environ.items() '
        "if 'RANK' in n or 'WORLD' in n or 'PET' in n or n == 'MINE'}))\""
    )
    env = [{"name": "RANK", "value": "7"}, {"name": "MINE", "value": "1"}]
    # The master stays up until the worker's init container has resolved its name.
    cluster.create(JOB, job(script=f"{script}; sleep 5", worker_script=script, container={"env": env}))
    assert cluster.wait_for_end(NAMESPACE, "tune", SECONDS) == "Succeeded"
    cluster.wait_until(lambda: cluster.phase_of(NAMESPACE, "tune-worker-0") == "Succeeded", SECONDS)
    seen = {role: json.loads(cluster.log_of(NAMESPACE, f"tune-{role}-0")) for role in ("master", "worker")}
    assert (seen["master"]["RANK"], seen["worker"]["RANK"]) == ("0", "1")
    assert seen["worker"] | {"PET_MASTER_ADDR": "", "PET_MASTER_PORT": ""} == {
        "MINE": "1",
        "RANK": "1",
        "WORLD_SIZE": "2",
        "PET_NODE_RANK": "1",
        "PET_NPROC_PER_NODE": "1",
        "PET_NNODES": "2",
        "PET_MASTER_ADDR": "",
        "PET_MASTER_PORT": "",
    }
    pod = cluster.get(POD, NAMESPACE, "tune-worker-0")
    injected = {v["name"]: v["value"] for v in pod["spec"]["containers"][0]["env"]}
    assert (injected["MASTER_ADDR"], injected["MASTER_PORT"]) == ("tune-master-0", "23456")
    assert injected["PYTHONUNBUFFERED"] == "1"


def test_conditions_of_a_success_follow_the_master_alone(cluster):
    cluster.create(JOB, job(script="sleep 0.5", worker_script="sleep 30", cleanPodPolicy="None"))
    assert cluster.wait_for_end(NAMESPACE, "tune", SECONDS) == "Succeeded"
    status = cluster.status_of(NAMESPACE, "tune")
    assert types_of(status) == [("Created", "True"), ("Running", "False"), ("Succeeded", "True")]
    assert cluster.phase_of(NAMESPACE, "tune-worker-0") == "Running"  # and keeps its GPU: cleanPodPolicy None


def test_clean_pod_policy_running_stops_who_still_runs(cluster):
    cluster.create(JOB, job(script="sleep 0.3", worker_script="sleep 30", cleanPodPolicy="Running"))
    cluster.wait_for_end(NAMESPACE, "tune", SECONDS)
    cluster.wait_until(lambda: len(cluster.pods_of(NAMESPACE, "tune")) == 1, SECONDS)
    assert cluster.phase_of(NAMESPACE, "tune-master-0") == "Succeeded"  # its log stays readable


def test_failed_container_is_restarted_in_place(cluster):
    script = "test -e /data/seen && exit 0; touch /data/seen; exit 1"
    volume = {"volumes": [{"name": "data", "emptyDir": {}}]}
    mount = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    cluster.create(JOB, job(script=script, worker_script="sleep 30", pod=volume, container=mount))
    first = cluster.wait_until(lambda: cluster.pods_of(NAMESPACE, "tune"), SECONDS)[0]["metadata"]["uid"]
    assert cluster.wait_for_end(NAMESPACE, "tune", SECONDS) == "Succeeded"  # it found its emptyDir again
    assert cluster.get(POD, NAMESPACE, "tune-master-0")["metadata"]["uid"] == first
    assert restart_count(cluster, "tune-master-0") == 1
    assert ("Restarting", "True") not in types_of(cluster.status_of(NAMESPACE, "tune"))


def test_backoff_limit_counts_restarts_of_all_replicas(cluster):
    cluster.create(JOB, job(script="exit 1", workers=2, backoffLimit=6, cleanPodPolicy="Running"))
    assert cluster.wait_for_end(NAMESPACE, "tune", SECONDS) == "Failed"
    status = cluster.status_of(NAMESPACE, "tune")
    assert "reached the specified backoff limit" in status["conditions"][-1]["message"]
    assert cluster.events(NAMESPACE, "BackOff")


def test_evicted_pod_is_made_anew(cluster):
    cluster.create(JOB, job())
    cluster.wait_until(lambda: is_running(cluster, "tune-worker-0"), SECONDS)
    before = cluster.get(POD, NAMESPACE, "tune-worker-0")["metadata"]["uid"]
    cluster.evict(NAMESPACE, "tune-worker-0")
    cluster.wait_until(
        lambda: (
            is_running(cluster, "tune-worker-0")
            and cluster.get(POD, NAMESPACE, "tune-worker-0")["metadata"]["uid"] != before
        ),
        SECONDS,
    )
    assert any("is restarting" in text for text in cluster.events(NAMESPACE, "PyTorchJobRestarting"))


def test_policy_never_fails_with_any_pod_and_nothing_changes_after(cluster):
    cluster.create(JOB, job(script="sleep 2", worker_script="exit 3", restart_policy="Never"))
    assert cluster.wait_for_end(NAMESPACE, "tune", SECONDS) == "Failed"
    cluster.wait_until(lambda: cluster.phase_of(NAMESPACE, "tune-master-0") == "Succeeded", SECONDS)
    assert types_of(cluster.status_of(NAMESPACE, "tune"))[-1] == ("Failed", "True")
    assert "exited with code 3" in cluster.events(NAMESPACE, "ExitedWithCode")[0]


@pytest.mark.parametrize(("code", "outcome"), [(2, "Failed"), (203, "Succeeded")])
def test_policy_exit_code_tells_permanent_from_retryable(cluster, code, outcome):
    claim = {"metadata": {"name": "data", "namespace": NAMESPACE}, "spec": {"accessModes": ["ReadWriteMany"]}}
    claim["spec"]["resources"] = {"requests": {"storage": "1Gi"}}
    cluster.create(CLAIM, claim)
    script = f"test -e /data/seen && exit 0; touch /data/seen; exit {code}"
    volume = {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]}
    mount = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    cluster.create(JOB, job(script=script, workers=0, restart_policy="ExitCode", pod=volume, container=mount))
    assert cluster.wait_for_end(NAMESPACE, "tune", SECONDS) == outcome


def test_suspend_deletes_all_pods_and_resume_makes_them_again(cluster):
    cluster.create(JOB, job())
    cluster.wait_until(lambda: is_running(cluster, "tune-master-0", "tune-worker-0"), SECONDS)
    cluster.patch_job(NAMESPACE, "tune", {"spec": {"runPolicy": {"suspend": True}}})
    cluster.wait_until(lambda: not cluster.pods_of(NAMESPACE, "tune"), SECONDS)
    assert ("Suspended", "True") in types_of(cluster.status_of(NAMESPACE, "tune"))
    cluster.patch_job(NAMESPACE, "tune", {"spec": {"runPolicy": {"suspend": False}}})
    cluster.wait_until(lambda: is_running(cluster, "tune-master-0", "tune-worker-0"), SECONDS)
    assert ("Suspended", "False") in types_of(cluster.status_of(NAMESPACE, "tune"))


def test_time_to_live_removes_job_and_pods(cluster):
    cluster.create(JOB, job(script="exit 0", ttlSecondsAfterFinished=20))
    cluster.wait_until(lambda: cluster.events(NAMESPACE, "PyTorchJobSucceeded"), SECONDS)
    cluster.wait_until(lambda: not cluster.select(JOB) and not cluster.select(POD), SECONDS)
    assert not cluster.select(SERVICE)


def test_port_23456_under_another_name_leaves_the_job_without_a_status(cluster):
    cluster.create(JOB, job(container={"ports": [{"name": "mine", "containerPort": 23456}]}))
    events = cluster.wait_until(lambda: cluster.events(NAMESPACE, "FailedCreateService"), SECONDS)
    assert "Duplicate value" in events[0]
    assert cluster.status_of(NAMESPACE, "tune") == {}


def test_quota_stops_pods_with_an_event(cluster):
    quota = {"metadata": {"name": "few", "namespace": NAMESPACE}, "spec": {"hard": {"pods": "1"}}}
    cluster.create(QUOTA, quota)
    cluster.create(JOB, job())
    (message, *_) = cluster.wait_until(lambda: cluster.events(NAMESPACE, "FailedCreatePod"), SECONDS)
    assert "exceeded quota: few, requested: pods=1, used: pods=1, limited: pods=1" in message


def test_worker_waits_for_the_masters_name(cluster):
    cluster.backend.missing_images.add("slow/image")
    waiting = job()
    waiting["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]["image"] = "slow/image"
    cluster.create(JOB, waiting)
    cluster.wait_until(lambda: cluster.events(NAMESPACE, "Failed"), SECONDS)
    worker = cluster.get(POD, NAMESPACE, "tune-worker-0")
    assert field_at(worker["status"]["containerStatuses"][0], "state.waiting.reason") == "PodInitializing"
    cluster.backend.missing_images.clear()
    cluster.wait_until(lambda: is_running(cluster, "tune-master-0", "tune-worker-0"), SECONDS)


def test_kueue_admits_a_job_with_a_queue(cluster):
    cluster.add_queue(NAMESPACE, "gpus")
    cluster.kueue.has_room = False
    cluster.create(JOB, job(labels={"kueue.x-k8s.io/queue-name": "gpus"}))
    cluster.wait_until(lambda: ("Suspended", "True") in types_of(cluster.status_of(NAMESPACE, "tune")), SECONDS)
    assert not cluster.pods_of(NAMESPACE, "tune")
    cluster.kueue.has_room = True
    cluster.wait_until(lambda: is_running(cluster, "tune-master-0"), SECONDS)


def test_deleting_a_job_deletes_what_it_owns(cluster):
    cluster.create(JOB, job())
    cluster.wait_until(lambda: is_running(cluster, "tune-worker-0"), SECONDS)
    cluster.do(lambda: cluster.api.delete(JOB, NAMESPACE, "tune", propagation="Foreground"))
    assert cluster.select(JOB)[0]["metadata"]["deletionTimestamp"]  # it waits for its pods
    cluster.wait_until(lambda: not cluster.select(JOB), SECONDS)
    assert not cluster.select(POD)
    assert not cluster.select(SERVICE)

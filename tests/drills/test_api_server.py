"""The API server answers the real kubectl and the real Python client as a cluster would."""

import json
import time

import pytest
import yaml
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import stream

from tests.cluster.jobs import NAMESPACE, job
from tests.cluster.kinds import JOB, POD

SECONDS = 20
GROUP = ("kubeflow.org", "v1", NAMESPACE, "pytorchjobs")


@pytest.fixture
def api_client(cluster):
    configuration = client.Configuration()
    config.load_kube_config(str(cluster.kubeconfig), client_configuration=configuration)
    with client.ApiClient(configuration) as opened:
        yield opened


def wait_for_pod(cluster, name="tune-master-0", phase="Running"):
    cluster.wait_until(lambda: cluster.phase_of(NAMESPACE, name) == phase, SECONDS, f"for {name} to be {phase}")


def test_kubectl_apply_get_and_delete(cluster, kubectl):
    manifest = yaml.safe_dump(job())
    assert kubectl("apply", "-f", "-", stdin=manifest).stdout == "pytorchjob.kubeflow.org/tune created\n"
    wait_for_pod(cluster)
    assert kubectl("apply", "-f", "-", stdin=manifest).stdout == "pytorchjob.kubeflow.org/tune unchanged\n"
    changed = yaml.safe_dump(job(backoffLimit=3))
    assert kubectl("apply", "-f", "-", stdin=changed).stdout == "pytorchjob.kubeflow.org/tune configured\n"
    assert cluster.get(JOB, NAMESPACE, "tune")["spec"]["runPolicy"] == {"backoffLimit": 3}
    selector = "training.kubeflow.org/job-name=tune,training.kubeflow.org/replica-type in (master)"
    listed = kubectl("-n", NAMESPACE, "get", "pods", "-l", selector, "--no-headers").stdout
    assert listed.split()[:3] == ["tune-master-0", "1/1", "Running"]
    assert kubectl("-n", NAMESPACE, "get", "pods", "-l", "pytorch-job-name=tune", "-o", "name").stdout == ""
    assert "Running" in kubectl("-n", NAMESPACE, "get", "pytorchjob", "tune", "--no-headers").stdout
    assert kubectl("-n", NAMESPACE, "delete", "pytorchjob", "tune").returncode == 0
    assert kubectl("-n", NAMESPACE, "get", "pytorchjob", "tune").stderr.startswith("Error from server (NotFound)")


def test_kubectl_server_side_apply_and_dry_run(cluster, kubectl):
    manifest = yaml.safe_dump(job())
    assert "(server dry run)" in kubectl("apply", "--dry-run=server", "-f", "-", stdin=manifest).stdout
    assert not cluster.select(JOB)
    assert "serverside-applied" in kubectl("apply", "--server-side", "-f", "-", stdin=manifest).stdout
    assert len(cluster.select(JOB)) == 1


def test_unknown_field_is_refused_by_strict_validation(kubectl):
    broken = job(cleanPodPolice="Running")
    refused = kubectl("apply", "-f", "-", stdin=yaml.safe_dump(broken))
    assert refused.returncode == 1
    assert 'strict decoding error: unknown field "spec.runPolicy.cleanPodPolice"' in refused.stderr


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"containers": [{"name": "a", "image": "b", "comand": ["x"]}]}, 'unknown field "spec.containers[0].comand"'),
        (
            {"containers": [{"name": "a", "image": "b", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]},
            'spec.containers[0].volumeMounts[0].name: Not found: "v"',
        ),
        (
            {
                "containers": [
                    {"name": "a", "image": "b", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}
                ]
            },
            "must be less than or equal to cpu limit of 1",
        ),
    ],
)
def test_broken_pods_are_refused(kubectl, spec, sentence):
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": NAMESPACE}, "spec": spec}
    refused = kubectl("create", "-f", "-", stdin=json.dumps(pod))
    assert refused.returncode == 1
    assert sentence in refused.stderr


def test_kubectl_logs_follow_exec_and_wait(cluster, kubectl):
    cluster.create(JOB, job(script="echo one; sleep 10; echo two", worker_script="true"))
    wait_for_pod(cluster)
    follower = kubectl.start("-n", NAMESPACE, "logs", "-f", "tune-master-0")
    ran = kubectl("-n", NAMESPACE, "exec", "tune-master-0", "--", "sh", "-c", "echo $RANK; echo bad >&2; exit 3")
    assert (ran.returncode, ran.stdout) == (3, "0\n")
    assert "bad" in ran.stderr
    copied = kubectl("-n", NAMESPACE, "exec", "-i", "tune-master-0", "--", "cat", stdin="through\n")
    assert copied.stdout == "through\n"
    met = kubectl("-n", NAMESPACE, "wait", "--for=condition=Succeeded", "pytorchjob/tune", "--timeout=20s")
    assert met.returncode == 0, met.stderr
    assert follower.communicate(timeout=SECONDS)[0] == "one\ntwo\n"
    assert kubectl("-n", NAMESPACE, "logs", "tune-master-0", "--tail=1").stdout == "two\n"


def test_access_review_says_what_is_forbidden(cluster, api_client):
    attributes = {"namespace": NAMESPACE, "verb": "create", "resource": "pods", "subresource": "exec"}
    review = {"spec": {"resourceAttributes": attributes}}
    ask = client.AuthorizationV1Api(api_client).create_self_subject_access_review
    assert ask(review).status.allowed is True
    cluster.forbid("create", "pods/exec")
    assert ask(review).status.allowed is False


def test_python_client_meets_conflicts_and_absence(cluster, api_client):
    jobs = client.CustomObjectsApi(api_client)
    jobs.create_namespaced_custom_object(*GROUP, job())
    with pytest.raises(ApiException, match="already exists") as refusal:
        jobs.create_namespaced_custom_object(*GROUP, job())
    assert refusal.value.status == 409
    stale = jobs.get_namespaced_custom_object(*GROUP, "tune")
    wait_for_pod(cluster)
    stale["metadata"]["labels"] = {"late": "yes"}
    stale["metadata"]["resourceVersion"] = "1"
    with pytest.raises(ApiException, match="the object has been modified"):
        jobs.replace_namespaced_custom_object(*GROUP, "tune", stale)
    with pytest.raises(ApiException) as absence:
        jobs.get_namespaced_custom_object(*GROUP, "other")
    assert absence.value.status == 404


def test_python_client_watches_executes_and_deletes(cluster, api_client):
    core = client.CoreV1Api(api_client)
    cluster.create(JOB, job(workers=0))
    seen = []
    for event in watch.Watch().stream(core.list_namespaced_pod, NAMESPACE, timeout_seconds=SECONDS):
        seen.append((event["type"], event["object"].status.phase))
        if event["object"].status.phase == "Running":
            break
    assert seen[0][0] == "ADDED"
    assert seen[-1][1] == "Running"
    command = ["sh", "-c", "echo is $PYTHONUNBUFFERED"]  # client 31 reads what could be JSON as such
    said = stream(core.connect_get_namespaced_pod_exec, "tune-master-0", NAMESPACE, command=command, stdout=True)
    assert said == "is 1\n"
    deleted = core.delete_namespaced_pod("tune-master-0", NAMESPACE)
    assert deleted.metadata.deletion_timestamp is not None


def test_watch_from_a_forgotten_revision_is_told_so(cluster, api_client):
    core = client.CoreV1Api(api_client)
    cluster.create(JOB, job(workers=0))
    wait_for_pod(cluster)
    cluster.forget_history()
    with pytest.raises(ApiException, match="too old resource version") as refusal:
        next(iter(watch.Watch().stream(core.list_namespaced_pod, NAMESPACE, resource_version="1", timeout_seconds=5)))
    assert refusal.value.status == 410


def test_server_leaves_and_returns_at_its_address(cluster, kubectl):
    cluster.create(JOB, job(script="sleep 1"))
    cluster.go_down()
    assert kubectl("get", "nodes", "--request-timeout=2s").returncode == 1
    time.sleep(0.2)
    cluster.come_up()
    assert kubectl("get", "nodes").returncode == 0
    assert cluster.wait_for_end(NAMESPACE, "tune", SECONDS) == "Succeeded"  # the job did not notice


def test_injected_failure_strikes_as_often_as_ordered(cluster, api_client):
    core = client.CoreV1Api(api_client)
    cluster.fail("list", "pods", 503, times=1)
    with pytest.raises(ApiException) as refusal:
        core.list_namespaced_pod(NAMESPACE)
    assert refusal.value.status == 503
    assert core.list_namespaced_pod(NAMESPACE).items == []


def test_force_deleted_pod_is_killed(cluster):
    cluster.create(JOB, job(workers=0))
    wait_for_pod(cluster)
    uid = cluster.get(POD, NAMESPACE, "tune-master-0")["metadata"]["uid"]
    cluster.do(lambda: cluster.api.delete(POD, NAMESPACE, "tune-master-0", grace_seconds=0))
    cluster.wait_until(lambda: cluster.phase_of(NAMESPACE, "tune-master-0") == "Running", SECONDS)
    assert cluster.get(POD, NAMESPACE, "tune-master-0")["metadata"]["uid"] != uid

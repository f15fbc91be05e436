"""Each rule catches its error: the flagship's manifests, broken in one place at a time."""

# ruff: noqa: S108 (paths in pods)

import json
from collections.abc import Callable
from typing import Any

import pytest

from deploy.jobs.manifests import render
from deploy.jobs.pytorchjob_rules import problems
from deploy.profile import plan_deployment

Manifests = list[dict[str, Any]]


class Broken:
    """The flagship's manifests, to be broken: shortcuts to the places."""

    def __init__(self) -> None:
        self.manifests: Manifests = json.loads(json.dumps(render(plan_deployment("openshift-ai"))))
        self.job = self.manifests[-1]
        self.spec = self.job["spec"]
        self.policy = self.manifests[-2]
        self.claim = self.manifests[0]
        self.replicas = self.spec["pytorchReplicaSpecs"]

    def pods(self) -> list[dict[str, Any]]:
        return [replica["template"]["spec"] for replica in self.replicas.values()]

    def containers(self) -> list[dict[str, Any]]:
        return [pod["containers"][0] for pod in self.pods()]


def in_pods(change: Callable[[dict[str, Any]], Any]) -> Callable[[Broken], Any]:
    return lambda broken: [change(pod) for pod in broken.pods()]


def in_containers(change: Callable[[dict[str, Any]], Any]) -> Callable[[Broken], Any]:
    return lambda broken: [change(container) for container in broken.containers()]


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set a dotted path; numbers index lists."""

    def change(target: Any) -> None:
        *parents, last = path.split("/")
        for parent in parents:
            target = target[int(parent)] if isinstance(target, list) else target[parent]
        target[last] = value

    return change


def drop(path: str) -> Callable[[dict[str, Any]], None]:
    def change(target: Any) -> None:
        *parents, last = path.split("/")
        for parent in parents:
            target = target[int(parent)] if isinstance(target, list) else target[parent]
        del target[last]

    return change


def env(name: str, value: Any) -> Callable[[Broken], Any]:
    return in_containers(lambda container: container["env"].append({"name": name, "value": value}))


def without_env(name: str) -> Callable[[Broken], Any]:
    def change(container: dict[str, Any]) -> None:
        container["env"] = [item for item in container["env"] if item["name"] != name]

    return in_containers(change)


def volume(name: str, source: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    def change(pod: dict[str, Any]) -> None:
        pod["volumes"] = [{"name": name, **source} if one["name"] == name else one for one in pod["volumes"]]

    return change


MUTATIONS: dict[str, tuple[Callable[[Broken], Any], str]] = {
    "name too long": (lambda b: put("metadata/name", "a" * 54)(b.job), "54 characters, 53 at most"),
    "name begins with a digit": (lambda b: put("metadata/name", "4ranks")(b.job), "DNS-1035"),
    "other namespace": (lambda b: put("metadata/namespace", "other")(b.claim), "several namespaces"),
    "no namespace": (lambda b: [drop("metadata/namespace")(m) for m in b.manifests], "metadata.namespace is missing"),
    "bad label": (lambda b: put("metadata/labels/x", "a b")(b.job), "is not a label value"),
    "no application label": (lambda b: b.job["metadata"]["labels"].clear(), "app.kubernetes.io/name is missing"),
    "no runPolicy": (lambda b: drop("runPolicy")(b.spec), "runPolicy is missing"),
    "cleanPodPolicy unknown": (lambda b: put("runPolicy/cleanPodPolicy", "Runing")(b.spec), "'Runing' is none of"),
    "cleanPodPolicy None": (lambda b: put("runPolicy/cleanPodPolicy", "None")(b.spec), "holding their GPUs"),
    "backoffLimit": (lambda b: put("runPolicy/backoffLimit", 3)(b.spec), "a multiple of 4"),
    "nprocPerNode a number": (lambda b: put("nprocPerNode", 1)(b.spec), "nprocPerNode must be a string"),
    "elasticPolicy": (lambda b: put("elasticPolicy", {})(b.spec), "without a master"),
    "master in lower case": (lambda b: b.replicas.update(master=b.replicas.pop("Master")), "only Master and Worker"),
    "no master": (lambda b: b.replicas.pop("Master"), "has no Master"),
    "two masters": (lambda b: put("Master/replicas", 2)(b.replicas), "Master.replicas must be 1"),
    "replicas left out": (lambda b: drop("Master/replicas")(b.replicas), "Master.replicas must be 1"),
    "no workers": (lambda b: put("Worker/replicas", 0)(b.replicas), "Worker.replicas must be at least 1"),
    "restartPolicy unknown": (lambda b: put("Worker/restartPolicy", "onfailure")(b.replicas), "'onfailure' is none of"),
    "restartPolicy Always": (lambda b: put("Worker/restartPolicy", "Always")(b.replicas), "never ends a job"),
    "restartPolicy ExitCode": (lambda b: put("Worker/restartPolicy", "ExitCode")(b.replicas), "never ends a job"),
    "pod restartPolicy": (in_pods(put("restartPolicy", "Never")), "overwritten by the replica's"),
    "roles differ": (lambda b: put("image", "other:1")(b.containers()[1]), "differ in more than"),
    "queue and GPU selector": (
        lambda b: b.job["metadata"]["labels"].update({"kueue.x-k8s.io/queue-name": "q"}),
        "contradict each other",
    ),
    "container name": (in_containers(put("name", "trainer")), "no container is named 'pytorch'"),
    "no image": (in_containers(put("image", "")), "is no image reference"),
    "image without a version": (in_containers(put("image", "registry:5000/a")), "names no version"),
    "image latest": (in_containers(put("image", "registry/a:latest")), "names no version"),
    "image with half a digest": (in_containers(put("image", "a@sha256:12")), "64 hexadecimal digits"),
    "another image is recorded": (
        lambda b: (without_env("FIELDCRAFT_IMAGE")(b), env("FIELDCRAFT_IMAGE", "registry/a:1")(b)),
        "FIELDCRAFT_IMAGE=registry/a:1 is not the container's image",
    ),
    "variable twice": (env("HOME", "/tmp"), "HOME is set 2 times"),
    "operator's variable": (env("WORLD_SIZE", "4"), "WORLD_SIZE belongs to the training operator"),
    "LOCAL_RANK": (env("LOCAL_RANK", "0"), "LOCAL_RANK belongs"),
    "harmful NCCL switch": (env("NCCL_P2P_DISABLE", "1"), "does harm"),
    "a number as value": (env("EPOCHS", 4), "must be a string, not 4"),
    "plain secret": (env("HF_TOKEN", "hf_x"), "a secret in plain text"),
    "no USER": (without_env("USER"), "USER must be set"),
    "no HOME": (without_env("HOME"), "HOME must name a folder on a volume"),
    "cache on the root": (
        lambda b: (without_env("HF_HOME")(b), env("HF_HOME", "/var/cache/hub")(b)),
        "HF_HOME=/var/cache/hub is on no writable volume",
    ),
    "port 23456 unnamed": (in_containers(put("ports", [{"containerPort": 23456}])), "must be named pytorchjob-port"),
    "port 23456 misnamed": (
        in_containers(put("ports", [{"name": "nccl", "containerPort": 23456}])),
        "or the job never gets a status",
    ),
    "the operator's name on another port": (
        in_containers(put("ports", [{"name": "pytorchjob-port", "containerPort": 29500}])),
        "must be 23456",
    ),
    "privileged port": (in_containers(put("ports", [{"name": "p", "containerPort": 80}])), "needs privileges"),
    "mount without volume": (
        in_containers(lambda c: c["volumeMounts"].append({"name": "gone", "mountPath": "/gone"})),
        "volumeMount gone has no volume",
    ),
    "volume without mount": (
        in_pods(lambda pod: pod["volumes"].append({"name": "idle", "emptyDir": {}})),
        "volume idle is mounted by no container",
    ),
    "volume twice": (
        in_pods(lambda pod: pod["volumes"].append({"name": "output", "emptyDir": {}})),
        "volume output is defined 2 times",
    ),
    "two at one path": (in_containers(put("volumeMounts/1/mountPath", "/tmp")), "2 volumes are mounted at /tmp"),
    "relative mount": (in_containers(put("volumeMounts/0/mountPath", "out")), "not an absolute path"),
    "host path": (in_pods(volume("scratch", {"hostPath": {"path": "/"}})), "hostPath, which is not allowed"),
    "worker on a one-node volume": (
        lambda b: volume("output", {"persistentVolumeClaim": {"claimName": "trained-models-pvc"}})(b.pods()[1]),
        "workers mount trained-models-pvc, which is ReadWriteOnce",
    ),
    "no /dev/shm": (in_pods(volume("shared-memory", {"emptyDir": {}})), "/dev/shm is 64 MiB"),
    "/dev/shm without limit": (
        in_pods(volume("shared-memory", {"emptyDir": {"medium": "Memory"}})),
        "/dev/shm needs a sizeLimit",
    ),
    "/dev/shm too large": (
        in_pods(volume("shared-memory", {"emptyDir": {"medium": "Memory", "sizeLimit": "20Gi"}})),
        "leaves nothing of the memory limit",
    ),
    "not a quantity": (in_containers(put("resources/requests/memory", "20GB")), "'20GB' is not a quantity"),
    "no memory limit": (in_containers(drop("resources/limits/memory")), "resources.limits.memory is missing"),
    "request above limit": (in_containers(put("resources/requests/cpu", "7")), "more than its limit 6"),
    "GPU request is not its limit": (
        in_containers(lambda c: c["resources"]["requests"].pop("nvidia.com/gpu")),
        "must be requested and limited alike",
    ),
    "half a GPU": (
        in_containers(lambda c: [part.update({"nvidia.com/gpu": "0.5"}) for part in c["resources"].values()]),
        "must be a whole number",
    ),
    "no toleration": (in_pods(drop("tolerations")), "no toleration for nvidia.com/gpu"),
    "privilege escalation": (
        in_containers(drop("securityContext/allowPrivilegeEscalation")),
        "allowPrivilegeEscalation must be false",
    ),
    "capabilities": (in_containers(put("securityContext/capabilities", {"drop": ["NET_RAW"]})), "{drop: [ALL]}"),
    "root": (in_containers(put("securityContext/runAsNonRoot", False)), "runAsNonRoot must be true"),
    "writable root": (in_containers(drop("securityContext/readOnlyRootFilesystem")), "readOnlyRootFilesystem"),
    "a user id": (in_containers(put("securityContext/runAsUser", 1001)), "runAsUser is the cluster's to choose"),
    "privileged": (in_containers(put("securityContext/privileged", True)), "privileged is not allowed"),
    "no seccomp profile": (in_pods(drop("securityContext/seccompProfile")), "securityContext.seccompProfile"),
    "host network": (in_pods(put("hostNetwork", True)), "hostNetwork is not allowed"),
    "service account token": (in_pods(drop("automountServiceAccountToken")), "automountServiceAccountToken"),
    "access mode": (lambda b: put("spec/accessModes", ["RWO"])(b.claim), "accessModes ['RWO']"),
    "volume size": (lambda b: put("spec/resources/requests/storage", "big")(b.claim), "'big' is not a size"),
    "a Service of one's own": (
        lambda b: b.manifests.append({"kind": "Service", "metadata": {**b.claim["metadata"], "name": "s"}}),
        "the training operator makes the Services",
    ),
    "policy for other pods": (
        lambda b: put("spec/podSelector", {"matchLabels": {"a": "b"}})(b.policy),
        "selects none of the job's pods",
    ),
    "policy that parts the ranks": (lambda b: put("spec/ingress", [])(b.policy), "the ranks could not meet"),
}  # fmt: skip


def test_there_are_enough_of_them():
    assert len(MUTATIONS) >= 25
    assert problems(Broken().manifests) == []


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_error_is_caught(name):
    change, sentence = MUTATIONS[name]
    broken = Broken()
    change(broken)
    found = problems(broken.manifests)
    assert any(sentence in problem for problem in found), found

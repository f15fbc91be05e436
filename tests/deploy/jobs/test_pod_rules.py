"""Each rule on a pod template catches its error."""

# ruff: noqa: S108 (paths in pods)

import pytest

from tests.deploy.jobs.broken import (
    Mutations,
    assert_caught,
    drop,
    env,
    in_containers,
    in_pods,
    put,
    volume,
    without_env,
)

MUTATIONS: Mutations = {
    "pod restartPolicy": (in_pods(put("restartPolicy", "Never")), "overwritten by the replica's"),
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
}  # fmt: skip


def test_there_are_enough_of_them():
    assert len(MUTATIONS) >= 44


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_error_is_caught(name):
    assert_caught(MUTATIONS[name])

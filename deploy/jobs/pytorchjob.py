"""Manifests as pure functions: a run and a cluster profile in, plain dictionaries out, and those as YAML.

What the training operator owns (ranks, addresses, Services) is not here; what it does not do (caches, /dev/shm, a
network policy, volumes by access mode) is.
"""

from collections.abc import Iterator
from typing import Any, TypeAlias

import yaml

from deploy.errors import ProfileError
from deploy.jobs.pod_rules import IMAGE_VARIABLE
from deploy.jobs.pytorchjob_rules import problems
from deploy.profile import OUTPUT_MOUNT, WORKSPACE_MOUNT, ClusterProfile, Deployment, Volume

Manifest: TypeAlias = dict[str, Any]

APPLICATION = "fieldcraft"
CONTAINER = "pytorch"
METRICS = "metrics"  # deploy/monitoring/pod-monitor.yaml names this port
TOKEN_MOUNT = "/secrets/hub"  # noqa: S105 (a path)
USER = "fieldcraft"
MIN_TERMINATION_SECONDS = 30
SECONDS_PER_DAY = 86_400

# Not runAsNonRoot: it would hold for the operator's init container too, whose upstream image runs as root.
POD_SECURITY: Manifest = {"seccompProfile": {"type": "RuntimeDefault"}}
CONTAINER_SECURITY: Manifest = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def render(deployment: Deployment) -> list[Manifest]:
    """Volumes, network policy and job, in the order in which they are created.

    Raises:
        ProfileError: the manifests break a rule of `deploy.jobs.pytorchjob_rules`.
    """
    profile = deployment.profile
    manifests = [
        *(claim(profile, volume) for volume in profile.volumes),
        network_policy(deployment),
        pytorch_job(deployment),
    ]
    found = problems(manifests)
    if found:
        raise ProfileError(f"profile {deployment.profile_name} renders manifests that cannot work: {'; '.join(found)}")
    return manifests


def to_yaml(manifests: list[Manifest], profile_name: str, command: str = "render") -> str:
    """What `kubectl apply -f -` takes."""
    header = f"# Rendered by `python -m deploy {command} {profile_name}`; kubectl apply -f - takes it as it is.\n"
    return header + yaml.dump_all(manifests, Dumper=_PlainDumper, sort_keys=False, width=120)


class _PlainDumper(yaml.SafeDumper):
    """Writes a value that occurs twice out twice, where yaml would write an anchor, and lines as lines."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.Node:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_PlainDumper.add_representer(str, _PlainDumper.represent_text)


def labels(profile: ClusterProfile, component: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": APPLICATION,
        "app.kubernetes.io/instance": profile.job,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": APPLICATION,
        "app.kubernetes.io/managed-by": f"{APPLICATION}-deploy",
    }


def claim(profile: ClusterProfile, volume: Volume) -> Manifest:
    spec: Manifest = {"accessModes": [volume.access_mode], "resources": {"requests": {"storage": volume.size}}}
    if volume.storage_class is not None:
        spec["storageClassName"] = volume.storage_class
    # Labels by application alone: a volume outlives the job that made it and may serve another.
    shared = {key: value for key, value in labels(profile, "storage").items() if not key.endswith("/instance")}
    metadata = {"name": volume.claim, "namespace": profile.namespace, "labels": shared}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def network_policy(deployment: Deployment) -> Manifest:
    """Pods of the job talk to each other and to the DNS, and to the internet's listed ports if it has egress.

    From outside, monitoring alone may come in, to the metrics.
    """
    profile, metrics_port = deployment.profile, deployment.config.output.metrics_port
    own_pods = {"podSelector": {"matchLabels": {"app.kubernetes.io/instance": profile.job}}}
    # OpenShift's DNS pods listen on 5353, others on 53; a policy sees the port behind the Service.
    dns_ports = [{"protocol": protocol, "port": port} for port in (53, 5353) for protocol in ("UDP", "TCP")]
    egress: list[Manifest] = [{"to": [own_pods]}, {"to": [{"namespaceSelector": {}}], "ports": dns_ports}]
    if profile.egress.internet:
        egress.append({"ports": [{"protocol": "TCP", "port": port} for port in profile.egress.ports]})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": profile.job,
            "namespace": profile.namespace,
            "labels": labels(profile, "network"),
        },
        "spec": {
            **own_pods,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [own_pods]}, *_metrics_ingress(profile, metrics_port)],
            "egress": egress,
        },
    }


def _metrics_ingress(profile: ClusterProfile, metrics_port: int | None) -> list[Manifest]:
    """Rules for Prometheus; none where there is nothing to read, or nobody to read it."""
    if metrics_port is None or not profile.monitoring_namespaces:
        return []
    name = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": list(profile.monitoring_namespaces)}
    sources = [{"namespaceSelector": {"matchExpressions": [name]}}]
    return [{"from": sources, "ports": [{"protocol": "TCP", "port": metrics_port}]}]


def pytorch_job(deployment: Deployment) -> Manifest:
    profile = deployment.profile
    replica_specs: Manifest = {"Master": _replica(deployment, 1, is_master=True)}
    if profile.pods > 1:
        replica_specs["Worker"] = _replica(deployment, profile.pods - 1, is_master=False)
    queue = {"kueue.x-k8s.io/queue-name": profile.queue} if profile.queue else {}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {
            "name": profile.job,
            "namespace": profile.namespace,
            "labels": {**labels(profile, "training"), **queue},
        },
        "spec": {
            "nprocPerNode": str(max(1, profile.gpu.count)),
            "runPolicy": _run_policy(profile),
            "pytorchReplicaSpecs": replica_specs,
        },
    }


def _run_policy(profile: ClusterProfile) -> Manifest:
    policy: Manifest = {
        "cleanPodPolicy": "Running",  # None would leave the peers of a failed rank holding their GPUs
        "ttlSecondsAfterFinished": profile.ttl_days * SECONDS_PER_DAY,
    }
    if profile.restart.policy == "hands-off":
        # It counts restarts summed over all pods, and one lost rank makes all of them restart.
        policy["backoffLimit"] = profile.restart.times * profile.pods
    return policy


def _replica(deployment: Deployment, replicas: int, *, is_master: bool) -> Manifest:
    return {
        "replicas": replicas,
        "restartPolicy": "OnFailure" if deployment.profile.restart.policy == "hands-off" else "Never",
        "template": {
            "metadata": {"labels": labels(deployment.profile, "training")},
            "spec": _pod(deployment, is_master=is_master),
        },
    }


def _pod(deployment: Deployment, *, is_master: bool) -> Manifest:
    profile = deployment.profile
    grace_seconds = max(MIN_TERMINATION_SECONDS, deployment.config.distributed.grace_seconds)
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(profile),
        "terminationGracePeriodSeconds": grace_seconds,
        **placement(profile),
        "containers": [_container(deployment)],
        "volumes": list(_volumes(profile, is_master=is_master)),
    }


def pod_security(profile: ClusterProfile) -> Manifest:
    if profile.fs_group is None:
        return POD_SECURITY
    return {**POD_SECURITY, "fsGroup": profile.fs_group, "fsGroupChangePolicy": "OnRootMismatch"}


def placement(profile: ClusterProfile) -> Manifest:
    """Where pods may run and with which pull secrets; empty parts are left out."""
    parts: Manifest = {
        "nodeSelector": dict(profile.node_selector),
        "tolerations": [toleration.model_dump(exclude_none=True) for toleration in profile.tolerations],
        "imagePullSecrets": [{"name": name} for name in profile.image_pull_secrets],
    }
    return {name: value for name, value in parts.items() if value}


def pull_policy(profile: ClusterProfile) -> str:
    return profile.image_pull_policy or ("IfNotPresent" if "@sha256:" in profile.image else "Always")


def _container(deployment: Deployment) -> Manifest:
    profile = deployment.profile
    container: Manifest = {
        "name": CONTAINER,
        "image": profile.image,
        "imagePullPolicy": pull_policy(profile),
        "command": ["python", "-m", "train"],
    }
    if deployment.arguments:
        container["args"] = list(deployment.arguments)
    if deployment.config.output.metrics_port is not None:
        container["ports"] = [{"name": METRICS, "containerPort": deployment.config.output.metrics_port}]
    return {
        **container,
        "env": [{"name": name, "value": value} for name, value in environment(deployment).items()],
        "resources": _resources(profile),
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": list(_mounts(profile)),
    }


def environment(deployment: Deployment) -> dict[str, str]:
    """Variables of every rank: the run, and writable places for what libraries like to keep.

    The user has a random id and no entry in /etc/passwd, so HOME, USER and LOGNAME must be said.
    """
    profile = deployment.profile
    values = {
        "RECIPE": profile.recipe,
        "OUTPUT_DIR": str(deployment.config.output.dir),
        IMAGE_VARIABLE: profile.image,
        "HOME": "/tmp",  # noqa: S108 (a volume of the pod)
        "TMPDIR": "/tmp",  # noqa: S108
        "USER": USER,
        "LOGNAME": USER,
        "HF_HOME": f"{WORKSPACE_MOUNT}/huggingface",
        "CACHE_DIR": f"{WORKSPACE_MOUNT}/fieldcraft",
        "XDG_CACHE_HOME": "/tmp/cache",  # noqa: S108
        "TRITON_CACHE_DIR": "/tmp/cache/triton",  # noqa: S108
        "TORCHINDUCTOR_CACHE_DIR": "/tmp/cache/inductor",  # noqa: S108
        "MPLCONFIGDIR": "/tmp/cache/matplotlib",  # noqa: S108
    }
    if profile.gpu.count:
        values["NCCL_DEBUG"] = profile.nccl_debug
    if profile.nccl_interface:
        values["NCCL_SOCKET_IFNAME"] = profile.nccl_interface
    if profile.hub_token:
        values["HF_TOKEN_PATH"] = f"{TOKEN_MOUNT}/{profile.hub_token.key}"
    if not profile.egress.internet:
        values["HF_HUB_OFFLINE"] = "1"
    return {**values, **profile.env}


def _resources(profile: ClusterProfile) -> Manifest:
    wanted = profile.resources
    gpu = {profile.gpu.resource: str(profile.gpu.count)} if profile.gpu.count else {}
    return {
        "requests": {"cpu": wanted.cpu, "memory": wanted.memory, **gpu},
        "limits": {"cpu": wanted.cpu_limit or wanted.cpu, "memory": wanted.memory, **gpu},
    }


def _mounts(profile: ClusterProfile) -> Iterator[Manifest]:
    """The same for every rank; what stands behind a mount may differ by role."""
    yield {"name": "output", "mountPath": OUTPUT_MOUNT}
    yield {"name": "workspace", "mountPath": WORKSPACE_MOUNT}
    yield {"name": "scratch", "mountPath": "/tmp"}  # noqa: S108
    yield {"name": "shared-memory", "mountPath": "/dev/shm"}  # noqa: S108
    if profile.hub_token:
        yield {"name": "hub-token", "mountPath": TOKEN_MOUNT, "readOnly": True}


def _volumes(profile: ClusterProfile, *, is_master: bool) -> Iterator[Manifest]:
    wanted = profile.resources
    yield {"name": "output", **_backing(profile.output_volume, wanted.scratch, is_master=is_master)}
    yield {"name": "workspace", **_backing(profile.workspace_volume, wanted.scratch, is_master=is_master)}
    yield {"name": "scratch", "emptyDir": {"sizeLimit": wanted.scratch}}
    yield {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": wanted.shared_memory}}
    if profile.hub_token:
        token = profile.hub_token
        secret = {"secretName": token.secret, "optional": token.optional, "defaultMode": 0o440}
        yield {"name": "hub-token", "secret": secret}


def _backing(volume: Volume | None, scratch: str, *, is_master: bool) -> Manifest:
    """A ReadWriteOnce claim can be on one node only: the master mounts it, the workers get a folder of their own."""
    if volume is None or (volume.access_mode == "ReadWriteOnce" and not is_master):
        return {"emptyDir": {"sizeLimit": scratch}}
    return {"persistentVolumeClaim": {"claimName": volume.claim}}

"""This file makes the pod of a rank: placement, security, container, environment, resources.

What the training operator does not do (caches, /dev/shm, a home for a user without a name) is here.
"""

from deploy.jobs.names import Manifest
from deploy.jobs.pod_rules import IMAGE_VARIABLE
from deploy.jobs.volumes import TOKEN_MOUNT, mounts, volumes
from deploy.profile import WORKSPACE_MOUNT, ClusterProfile, Deployment

METRICS = "metrics"  # deploy/monitoring/pod-monitor.yaml names this port
USER = "fieldcraft"
MIN_TERMINATION_SECONDS = 30

# Not runAsNonRoot: it would hold for the operator's init container too, whose upstream image runs as root.
POD_SECURITY: Manifest = {"seccompProfile": {"type": "RuntimeDefault"}}
CONTAINER_SECURITY: Manifest = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod(deployment: Deployment, *, container: str, is_master: bool) -> Manifest:
    """Return the spec of a rank's pod; `container` is the name by which the job's operator finds it."""
    profile = deployment.profile
    grace_seconds = max(MIN_TERMINATION_SECONDS, deployment.config.distributed.grace_seconds)
    return {
        # Training asks the cluster nothing: a token would only be something to steal.
        "automountServiceAccountToken": False,
        # Links would put variables of every Service of the namespace into the run's environment.
        "enableServiceLinks": False,
        "securityContext": pod_security(profile),
        "terminationGracePeriodSeconds": grace_seconds,
        **placement(profile),
        "containers": [_container(deployment, container)],
        "volumes": list(volumes(profile, is_master=is_master)),
    }


def pod_security(profile: ClusterProfile) -> Manifest:
    """Return the pod's securityContext; the group of volumes is set only where the profile chooses one."""
    if profile.fs_group is None:
        return POD_SECURITY
    return {**POD_SECURITY, "fsGroup": profile.fs_group, "fsGroupChangePolicy": "OnRootMismatch"}


def placement(profile: ClusterProfile) -> Manifest:
    """Return where pods may run and with which pull secrets; empty parts are left out."""
    parts: Manifest = {
        "nodeSelector": dict(profile.node_selector),
        "tolerations": [toleration.model_dump(exclude_none=True) for toleration in profile.tolerations],
        "imagePullSecrets": [{"name": name} for name in profile.image_pull_secrets],
    }
    return {name: value for name, value in parts.items() if value}


def pull_policy(profile: ClusterProfile) -> str:
    """Return the profile's pull policy; by default a tag is looked up again, a digest is not."""
    return profile.image_pull_policy or ("IfNotPresent" if "@sha256:" in profile.image else "Always")


def _container(deployment: Deployment, name: str) -> Manifest:
    profile = deployment.profile
    container: Manifest = {
        "name": name,
        "image": profile.image,
        "imagePullPolicy": pull_policy(profile),
        "command": ["python", "-m", "train"],
    }
    if deployment.arguments:
        # Precedence in a run is command line > environment: settings go here, so that nothing outvotes them.
        container["args"] = list(deployment.arguments)
    if deployment.config.output.metrics_port is not None:
        container["ports"] = [{"name": METRICS, "containerPort": deployment.config.output.metrics_port}]
    return {
        **container,
        "env": [{"name": name, "value": value} for name, value in environment(deployment).items()],
        "resources": _resources(profile),
        "securityContext": CONTAINER_SECURITY,
        # A run writes its own reason; one that is killed before it can leaves the end of its log instead.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": list(mounts(profile)),
    }


def environment(deployment: Deployment) -> dict[str, str]:
    """Return the variables of every rank: the run, and writable places for what libraries like to keep.

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
        # Without it the hub's client asks the network first, and waits for its time-out, though all is cached.
        values["HF_HUB_OFFLINE"] = "1"
    return {**values, **profile.env}


def _resources(profile: ClusterProfile) -> Manifest:
    wanted = profile.resources
    gpu = {profile.gpu.resource: str(profile.gpu.count)} if profile.gpu.count else {}
    return {
        "requests": {"cpu": wanted.cpu, "memory": wanted.memory, **gpu},
        # As much memory as was asked for: a pod that uses more is the first to be evicted when its node runs short.
        "limits": {"cpu": wanted.cpu_limit or wanted.cpu, "memory": wanted.memory, **gpu},
    }

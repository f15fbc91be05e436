"""A published model on its volume is served by vLLM on OpenShift AI: KServe's ServingRuntime and InferenceService.

python -m deploy render-serving openshift-ai --vllm-image IMAGE | kubectl apply -f -

Pure, like `deploy.jobs.manifests`. The server is given the model's own chat template with the model's own system
prompt as default, so a client that sends the question alone asks with the prompt of training. Not verified on a
cluster.
"""

from collections.abc import Iterator
from typing import Any

from deploy.errors import ProfileError
from deploy.jobs.names import DNS_1035, Manifest, labels
from deploy.jobs.pods import CONTAINER_SECURITY, placement, pod_security
from deploy.profile import OUTPUT_MOUNT, Deployment
from train.run_folder.run_folder import SYSTEM_PROMPT, RunFolder

CONTAINER = "kserve-container"  # KServe finds the model server by this name
MODEL_MOUNT = "/mnt/models"  # where KServe mounts what storageUri names
TEMPLATE_FILE = "/tmp/chat_template.jinja"  # noqa: S108 (a volume of the pod)
PORT = 8080
MAX_NAME = 53  # KServe makes "<name>-predictor" and more of it
START_MINUTES = 20

# KServe runs the container through Go's text/template, for which two braces in a row are an action: hence `* 2`.
# What comes of it is `inference.models.template.with_default_system_prompt`; a test holds the two together.
WITH_SYSTEM_PROMPT = f"""\
import json, os, sys
model, target = "{MODEL_MOUNT}", "{TEMPLATE_FILE}"
prompt = open(model + "/{SYSTEM_PROMPT}", encoding="utf-8").read().strip()
template = open(model + "/chat_template.jinja", encoding="utf-8", newline="").read()
turn = "{{'role': 'system', 'content': " + json.dumps(prompt, ensure_ascii=False) + "}}"
prelude = (
    "{{%- if not messages or messages[0]['role'] != 'system' %}}"
    "{{%- set messages = [" + turn + "] + messages %}}"
    "{{%- endif %}}" + "{{" * 2 + " '' " + "}}" * 2
)
open(target, "w", encoding="utf-8", newline="").write(prelude + template)
server = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--chat-template", target]
os.execv(sys.executable, server + sys.argv[1:])
"""


def render_serving(
    deployment: Deployment, *, vllm_image: str, name: str | None = None, max_model_tokens: int = 4096
) -> list[Manifest]:
    """Return the runtime and the service, in the order in which they are created.

    Raises:
        ProfileError: the profile has no GPU, or the name cannot be a service's.
    """
    name = name or deployment.profile.job
    if problems := list(_problems(deployment, name)):
        raise ProfileError(f"profile {deployment.profile_name} cannot be served: {'; '.join(problems)}")
    runtime = serving_runtime(deployment, name, vllm_image, max_model_tokens)
    return [runtime, inference_service(deployment, name)]


def _problems(deployment: Deployment, name: str) -> Iterator[str]:
    if deployment.profile.gpu.count == 0:
        yield "vLLM needs a GPU, and gpu.count is 0"
    if not DNS_1035.fullmatch(name) or len(name) > MAX_NAME:
        yield f"'{name}' is no name for a service (lower case, digits, -, at most {MAX_NAME} characters; see --name)"


def serving_runtime(deployment: Deployment, name: str, vllm_image: str, max_model_tokens: int) -> Manifest:
    """Say how to serve, under the service's name: OpenShift AI's dashboard shows the two together only then."""
    profile = deployment.profile
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {
            **_metadata(deployment, name),
            "annotations": {
                "openshift.io/display-name": f"vLLM for {name}",
                "opendatahub.io/recommended-accelerators": f'["{profile.gpu.resource}"]',
                "opendatahub.io/apiProtocol": "REST",
            },
        },
        "spec": {
            "annotations": {"prometheus.io/path": "/metrics", "prometheus.io/port": str(PORT)},
            "multiModel": False,
            "supportedModelFormats": [{"name": "vLLM", "autoSelect": False}],
            "containers": [_container(deployment, name, vllm_image, max_model_tokens)],
            "volumes": [
                {"name": "scratch", "emptyDir": {"sizeLimit": profile.resources.scratch}},
                {
                    "name": "shared-memory",
                    "emptyDir": {"medium": "Memory", "sizeLimit": profile.resources.shared_memory},
                },
            ],
        },
    }


def inference_service(deployment: Deployment, name: str) -> Manifest:
    """Say what to serve: the published folder on the volume, which KServe mounts read-only."""
    profile = deployment.profile
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            **_metadata(deployment, name),
            "annotations": {
                "openshift.io/display-name": name,
                # Without Knative: a model that takes minutes to load should not be scaled to zero.
                "serving.kserve.io/deploymentMode": "RawDeployment",
                "security.opendatahub.io/enable-auth": "true",
            },
        },
        "spec": {
            "predictor": {
                "minReplicas": 1,
                "maxReplicas": 1,
                # A second pod could neither get the GPU nor, on another node, a ReadWriteOnce volume.
                "deploymentStrategy": {"type": "Recreate"},
                "automountServiceAccountToken": False,
                "securityContext": pod_security(profile),
                **placement(profile),
                "model": {
                    "modelFormat": {"name": "vLLM"},
                    "runtime": name,
                    "storageUri": storage_uri(deployment),
                    "resources": _resources(deployment),
                },
            }
        },
    }


def storage_uri(deployment: Deployment) -> str:
    """Return where the published model lies: 'pvc://trained-models-pvc/RUN/best_model'."""
    folder = RunFolder(deployment.config.output.dir).best_model.relative_to(OUTPUT_MOUNT)
    return f"pvc://{deployment.profile.output_volume.claim}/{folder}"


def _metadata(deployment: Deployment, name: str) -> Manifest:
    own = {**labels(deployment.profile, "serving"), "app.kubernetes.io/instance": name}
    shown = {"opendatahub.io/dashboard": "true"}
    return {"name": name, "namespace": deployment.profile.namespace, "labels": {**own, **shown}}


def _container(deployment: Deployment, name: str, vllm_image: str, max_model_tokens: int) -> Manifest:
    probe = {"httpGet": {"path": "/health", "port": PORT}}
    return {
        "name": CONTAINER,
        "image": vllm_image,
        "command": ["python3", "-c", WITH_SYSTEM_PROMPT],
        "args": list(_arguments(deployment, name, max_model_tokens)),
        "env": [{"name": key, "value": value} for key, value in _environment().items()],
        "ports": [{"containerPort": PORT, "protocol": "TCP"}],
        "startupProbe": {**probe, "periodSeconds": 10, "failureThreshold": START_MINUTES * 6},
        "readinessProbe": {**probe, "periodSeconds": 10},
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108
            {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108
        ],
    }


def _arguments(deployment: Deployment, name: str, max_model_tokens: int) -> Iterator[str]:
    yield from (f"--model={MODEL_MOUNT}", f"--served-model-name={name}", f"--port={PORT}")
    yield f"--max-model-len={max_model_tokens}"
    if deployment.profile.gpu.count > 1:
        yield f"--tensor-parallel-size={deployment.profile.gpu.count}"


def _environment() -> dict[str, str]:
    """Everything is on the volume, the root file system is read-only, and nobody is told of this server."""
    scratch = "/tmp"  # noqa: S108
    return {
        "HOME": scratch,
        "HF_HOME": f"{scratch}/huggingface",
        "XDG_CACHE_HOME": f"{scratch}/cache",
        "VLLM_CACHE_ROOT": f"{scratch}/cache/vllm",
        "TRITON_CACHE_DIR": f"{scratch}/cache/triton",
        "TORCHINDUCTOR_CACHE_DIR": f"{scratch}/cache/inductor",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }


def _resources(deployment: Deployment) -> dict[str, Any]:
    wanted = deployment.profile.resources
    amounts = {
        "cpu": wanted.cpu,
        "memory": wanted.memory,
        deployment.profile.gpu.resource: str(deployment.profile.gpu.count),
    }
    return {"requests": amounts, "limits": amounts}

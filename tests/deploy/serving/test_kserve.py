"""The KServe manifests: closed against the fields KServe knows, strict as pods, and the template they serve with."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jinja2
import kubernetes_validate
import pytest
import yaml

from deploy.errors import ProfileError
from deploy.jobs.names import labels
from deploy.profile import plan_deployment, profile_names
from deploy.serving.kserve import MODEL_MOUNT, TEMPLATE_FILE, WITH_SYSTEM_PROMPT, render_serving
from inference.models.template import with_default_system_prompt

ROOT = Path(__file__).parents[3]
IMAGE = f"registry.example.org/vllm@sha256:{'0' * 64}"
KUBERNETES = "1.32"
TEMPLATE = "\n{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
PROMPT = 'Lines\nwith "quotes", \\n, {{ braces }} and ünïcode.'

# Of KServe's API types (serving.kserve.io, 0.15): what a spec may hold besides a pod's own fields.
RUNTIME_FIELDS = {
    "supportedModelFormats", "multiModel", "disabled", "protocolVersions", "workerSpec", "containers", "volumes",
    "nodeSelector", "affinity", "tolerations", "labels", "annotations", "imagePullSecrets", "hostIPC",
}  # fmt: skip
PREDICTOR_FIELDS = {
    "minReplicas", "maxReplicas", "scaleTarget", "scaleMetric", "timeout", "labels", "annotations",
    "deploymentStrategy", "model",
}  # fmt: skip
MODEL_FIELDS = {"modelFormat", "runtime", "storageUri", "protocolVersion", "resources", "args", "env"}


def profiles_with_gpu():
    return [name for name in profile_names() if plan_deployment(name).profile.gpu.count]


def rendered(profile="openshift-ai", *settings, **options):
    return render_serving(plan_deployment(profile, settings=settings), vllm_image=IMAGE, **options)


@pytest.mark.parametrize("profile", profiles_with_gpu())
def test_manifests_hold_known_fields_only(profile):
    runtime, service = rendered(profile)
    assert set(runtime) == set(service) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(runtime["spec"]) <= RUNTIME_FIELDS
    assert set(service["spec"]) == {"predictor"}
    predictor = service["spec"]["predictor"]
    assert set(predictor["model"]) <= MODEL_FIELDS
    pod = {key: value for key, value in predictor.items() if key not in PREDICTOR_FIELDS}
    containers = [{**runtime["spec"]["containers"][0], "resources": predictor["model"]["resources"]}]
    spec = {**pod, "containers": containers, "volumes": runtime["spec"]["volumes"]}
    template = {"metadata": runtime["metadata"], "spec": spec}
    kubernetes_validate.validate(
        {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "t"}, "template": template},
        KUBERNETES,
        strict=True,
    )
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": service["metadata"],
        "spec": {
            "selector": {"matchLabels": labels(plan_deployment(profile).profile, "serving")},
            "strategy": predictor["deploymentStrategy"],
            "template": template,
        },
    }
    kubernetes_validate.validate(deployment, KUBERNETES, strict=True)


def test_service_names_its_runtime_and_the_published_folder():
    runtime, service = rendered()
    assert runtime["metadata"]["name"] == service["metadata"]["name"] == "smollm3-distributed-finetuning"
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["storageUri"] == "pvc://trained-models-pvc/smollm3-distributed-finetuning/best_model"
    assert model["modelFormat"]["name"] in {one["name"] for one in runtime["spec"]["supportedModelFormats"]}
    assert model["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert service["metadata"]["annotations"]["security.opendatahub.io/enable-auth"] == "true"


def test_folder_and_name_follow_the_settings():
    runtime, service = rendered("openshift-ai", "output.dir=/trained-models/a/b", name="guide", max_model_tokens=2048)
    assert service["spec"]["predictor"]["model"]["storageUri"] == "pvc://trained-models-pvc/a/b/best_model"
    assert {"--served-model-name=guide", "--max-model-len=2048"} <= set(runtime["spec"]["containers"][0]["args"])


def test_nothing_is_a_go_action_or_a_kubernetes_variable():
    """KServe runs the container through Go's text/template, Kubernetes expands $(NAME)."""
    text = json.dumps(rendered()[0])
    assert "{{" not in text
    assert "$(" not in text


def test_the_container_serves_with_the_template_of_training(tmp_path):
    model = tmp_path / "models"
    (tmp_path / "bin" / "vllm" / "entrypoints" / "openai").mkdir(parents=True)
    (tmp_path / "bin/vllm/entrypoints/openai/api_server.py").write_text("import sys; print(sys.argv[1:])")
    model.mkdir()
    (model / "chat_template.jinja").write_text(TEMPLATE)
    (model / "system_prompt.txt").write_text(f"{PROMPT}\n")
    written = tmp_path / "chat_template.jinja"
    script = WITH_SYSTEM_PROMPT.replace(MODEL_MOUNT, str(model)).replace(TEMPLATE_FILE, str(written))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "bin")}
    done = subprocess.run(
        [sys.executable, "-c", script, "--port=8080"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == str(["--chat-template", str(written), "--port=8080"]), done.stderr
    assert written.read_text() == with_default_system_prompt(TEMPLATE, PROMPT)
    render = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(written.read_text()).render
    assert render(messages=[{"role": "user", "content": "Why?"}]) == f"\n<system>{PROMPT}<user>Why?"
    assert render(messages=[{"role": "system", "content": "S"}]) == "\n<system>S"


@pytest.mark.parametrize(
    ("profile", "options", "complaint"),
    [
        ("cpu-smoke", {}, "vLLM needs a GPU"),
        ("openshift-ai", {"name": "Guide_1"}, "'Guide_1' is no name for a service"),
        ("openshift-ai", {"name": "x" * 54}, "at most 53 characters"),
    ],
)
def test_what_cannot_work_is_refused(profile, options, complaint):
    with pytest.raises(ProfileError, match=complaint):
        rendered(profile, **options)


def test_command_line_prints_what_kubectl_takes(run):
    done = run("deploy", "render-serving", "openshift-ai", "--vllm-image", IMAGE, "--name", "guide")
    assert done.returncode == 0, done.stderr
    assert list(yaml.safe_load_all(done.stdout)) == rendered(name="guide")
    refused = run("deploy", "render-serving", "cpu-smoke", "--vllm-image", IMAGE)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)

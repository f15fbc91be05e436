"""Every profile's manifests: strict by the job's CRD, strict as pods, and the committed rendering of the flagship."""

import os
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from deploy.jobs.pytorchjob import render, to_yaml
from deploy.jobs.pytorchjob_rules import problems
from deploy.profile import plan_deployment, profile_names

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("FIELDCRAFT_TEST_DATA") or ROOT.parent / "shared" / "data")
CRD = DATA / "kubeflow.org_pytorchjobs.yaml"
KUBERNETES = "1.32"
IMAGE = f"registry.example.org/fieldcraft@sha256:{'0' * 64}"


def manifests_of(profile: str, *settings: str) -> list[dict[str, Any]]:
    return render(plan_deployment(profile, settings=settings, image=IMAGE))


def job_of(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    return next(manifest for manifest in manifests if manifest["kind"] == "PyTorchJob")


def templates_of(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [replica["template"] for replica in job_of(manifests)["spec"]["pytorchReplicaSpecs"].values()]


def close_schema(schema: Any) -> Any:
    """The schema with no room for unknown fields, wherever it lists the known ones."""
    if isinstance(schema, list):
        return [close_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: close_schema(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
    return closed


@pytest.mark.parametrize("profile", profile_names())
@pytest.mark.parametrize("restart", ["hands-off", "supervised"])
def test_the_job_is_strict_by_the_crd(profile, restart):
    if not CRD.is_file():
        pytest.skip(f"{CRD.name} is not in $FIELDCRAFT_TEST_DATA or ../shared/data")
    version = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]
    schema = close_schema(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    job = job_of(manifests_of(profile, f"restart.policy={restart}"))
    jsonschema.Draft7Validator(schema).validate(job)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate({**job, "spec": {**job["spec"], "replicas": 4}})


@pytest.mark.parametrize("profile", profile_names())
def test_pods_and_all_else_are_strict_by_kubernetes(profile):
    manifests = manifests_of(profile)
    wrapped = [
        {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "t"}, "template": template}
        for template in templates_of(manifests)
    ]
    plain = [manifest for manifest in manifests if manifest["kind"] != "PyTorchJob"]
    assert len(wrapped) == len(templates_of(manifests)) > 0
    for manifest in [*wrapped, *plain]:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize("profile", profile_names())
def test_our_own_rules_find_nothing(profile):
    assert problems(manifests_of(profile)) == []


def test_the_committed_rendering_is_true():
    committed = ROOT / "deploy" / "pytorchjob.yaml"
    fresh = to_yaml(render(plan_deployment("openshift-ai")), "openshift-ai")
    assert committed.read_text() == fresh, "run: python -m deploy render openshift-ai > deploy/pytorchjob.yaml"


def test_yaml_reads_back_as_what_was_rendered():
    manifests = manifests_of("generic-gpu")
    assert list(yaml.safe_load_all(to_yaml(manifests, "generic-gpu"))) == manifests


def test_a_volume_for_one_node_is_the_masters_alone():
    roles = job_of(manifests_of("openshift-ai"))["spec"]["pytorchReplicaSpecs"]
    claims = {
        role: [volume["name"] for volume in replica["template"]["spec"]["volumes"] if "persistentVolumeClaim" in volume]
        for role, replica in roles.items()
    }
    assert claims == {"Master": ["output", "workspace"], "Worker": []}
    shared = job_of(manifests_of("generic-gpu"))["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["volumes"]
    assert [volume["name"] for volume in shared if "persistentVolumeClaim" in volume] == ["output", "workspace"]


def test_restarts_by_profile():
    hands_off = job_of(manifests_of("openshift-ai", "restart.times=3"))["spec"]
    assert hands_off["runPolicy"]["backoffLimit"] == 12
    assert hands_off["pytorchReplicaSpecs"]["Worker"]["restartPolicy"] == "OnFailure"
    supervised = job_of(manifests_of("openshift-ai", "restart.policy=supervised"))["spec"]
    assert "backoffLimit" not in supervised["runPolicy"]
    assert supervised["pytorchReplicaSpecs"]["Master"]["restartPolicy"] == "Never"


def test_every_rank_is_told_its_image():
    containers = [template["spec"]["containers"][0] for template in templates_of(manifests_of("openshift-ai"))]
    assert len(containers) == 2
    assert all({"name": "FIELDCRAFT_IMAGE", "value": IMAGE} in container["env"] for container in containers)


def test_a_queue_is_a_label_and_no_network_is_said_so():
    assert job_of(manifests_of("kueue"))["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "default"
    environment = {
        item["name"]: item["value"]
        for item in templates_of(manifests_of("cpu-smoke"))[0]["spec"]["containers"][0]["env"]
    }
    assert environment["HF_HUB_OFFLINE"] == "1"
    policy = next(manifest for manifest in manifests_of("cpu-smoke") if manifest["kind"] == "NetworkPolicy")
    assert all("to" in rule for rule in policy["spec"]["egress"])


def test_metrics_are_a_named_port_that_monitoring_alone_may_read():
    for profile in profile_names():
        manifests = manifests_of(profile)
        ports = [template["spec"]["containers"][0]["ports"] for template in templates_of(manifests)]
        assert all(one == [{"name": "metrics", "containerPort": 8080}] for one in ports)
        policy = next(manifest for manifest in manifests if manifest["kind"] == "NetworkPolicy")
        own, monitoring = policy["spec"]["ingress"]
        assert own == {"from": [{"podSelector": policy["spec"]["podSelector"]}]}
        assert monitoring["ports"] == [{"protocol": "TCP", "port": 8080}]
        assert "namespaceSelector" in monitoring["from"][0]
    silent = manifests_of("openshift-ai", "output.metrics_port=null")
    assert "ports" not in templates_of(silent)[0]["spec"]["containers"][0]
    assert len(next(one for one in silent if one["kind"] == "NetworkPolicy")["spec"]["ingress"]) == 1
    monitor = yaml.safe_load((ROOT / "deploy/monitoring/pod-monitor.yaml").read_text())["spec"]
    assert monitor["podMetricsEndpoints"][0]["port"] == "metrics"
    labels = templates_of(manifests_of("openshift-ai"))[0]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()

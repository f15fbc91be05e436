"""The job that each profile renders: strict by the operator's CRD, restarts by profile."""

import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deploy.profile import profile_names
from tests.deploy.jobs.rendered import job_of, manifests_of

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("FIELDCRAFT_TEST_DATA") or ROOT.parent / "shared" / "data")
CRD = DATA / "kubeflow.org_pytorchjobs.yaml"


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


def test_restarts_by_profile():
    hands_off = job_of(manifests_of("openshift-ai", "restart.times=3"))["spec"]
    assert hands_off["runPolicy"]["backoffLimit"] == 12
    assert hands_off["pytorchReplicaSpecs"]["Worker"]["restartPolicy"] == "OnFailure"
    supervised = job_of(manifests_of("openshift-ai", "restart.policy=supervised"))["spec"]
    assert "backoffLimit" not in supervised["runPolicy"]
    assert supervised["pytorchReplicaSpecs"]["Master"]["restartPolicy"] == "Never"


def test_a_queue_is_a_label():
    assert job_of(manifests_of("kueue"))["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "default"

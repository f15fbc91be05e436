"""The job that each profile renders, strict by the operator's CRD; and jobs of the cluster as they are read."""

import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deploy.jobs import pytorchjob
from deploy.profile import profile_names
from tests.deploy.jobs.objects import job, pod
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


@pytest.mark.parametrize(
    ("conditions", "phase"),
    [
        ((), "New"),
        (("Created",), "Created"),
        (("Created", "Running"), "Running"),
        (("Created", "-Running", "Restarting"), "Restarting"),
        (("Created", "-Running", "Succeeded"), "Succeeded"),
        (("Created", "Failed", "-Running"), "Failed"),
        (("Created", "Suspended", "-Running"), "Suspended"),
    ],
)
def test_phase_needs_type_and_status(conditions, phase):
    assert pytorchjob.phase_of(job(*conditions)) == phase


def test_a_job_is_read_as_it_was_rendered():
    rendered = job_of(manifests_of("openshift-ai"))
    assert pytorchjob.replica_count(rendered) == 4
    template = pytorchjob.pod_template(rendered)
    assert [one["name"] for one in template["spec"]["containers"]] == [pytorchjob.CONTAINER]
    assert not pytorchjob.is_suspended(rendered)
    assert not pytorchjob.pod_template({})


def test_ranks_are_told_by_the_operators_labels():
    assert [pytorchjob.rank_of(pod(rank)) for rank in range(3)] == [0, 1, 2]


def test_the_reason_of_a_failure_is_the_last_one():
    assert pytorchjob.failure_message(job("Running", "Failed", message="limit reached")) == "limit reached"
    assert pytorchjob.failure_message(job("Running")) == pytorchjob.failure_message(None) == ""

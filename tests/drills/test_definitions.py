"""The job's schema of our own, which stands in where the operator's is not to be had: as strict about a job."""

import copy

import pytest

from deploy.jobs.manifests import render
from deploy.profile import plan_deployment, profile_names
from tests.cluster import definitions
from tests.cluster.kinds import JOB
from tests.cluster.status import ApiError
from tests.cluster.validation import checked, custom_validator


@pytest.fixture(params=["ours", "the operator's"])
def check(request, monkeypatch, tmp_path):
    """Refuses a job as the API server does, by one of the two schemas."""
    if request.param == "ours":
        monkeypatch.setenv(definitions.DATA_VARIABLE, str(tmp_path))
    elif not (definitions.data_folder() / definitions.REAL_DEFINITION).is_file():
        pytest.skip(f"no {definitions.REAL_DEFINITION} in {definitions.data_folder()}")
    definition = definitions.job_definition.__wrapped__()
    ours = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"] == definitions._own_job_schema()
    assert ours == (request.param == "ours")
    validator = custom_validator(definition, JOB)
    return lambda job: checked(validator, JOB, copy.deepcopy(job), "Strict")


@pytest.fixture(scope="module")
def jobs():
    manifests = [render(plan_deployment(profile)) for profile in profile_names()]
    return [next(one for one in some if one["kind"] == "PyTorchJob") for some in manifests]


def test_all_profiles_pass(check, jobs):
    assert len(jobs) >= 5
    for job in jobs:
        check(job)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("nprocPerNode",), 1),
        (("pytorchReplicaSpecs",), None),
        (("pytorchReplicaSpecs", "Master", "replicas"), "one"),
        (("pytorchReplicaSpecs", "Master", "restartpolicy"), "Never"),
        (("runPolicy", "backoffLimit"), "many"),
        (("runPolicy", "cleanPodPolicies"), "All"),
        (("parallelism",), 4),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else str(value),
)
def test_both_refuse_the_same(check, jobs, place, value):
    job = copy.deepcopy(jobs[0])
    *parents, last = place
    inner = job["spec"]
    for parent in parents:
        inner = inner[parent]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    with pytest.raises(ApiError) as refused:
        check(job)
    assert refused.value.code in (400, 422)
    assert last in refused.value.message

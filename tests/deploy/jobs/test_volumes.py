"""Which rank mounts which claim."""

from tests.deploy.jobs.rendered import job_of, manifests_of


def test_a_volume_for_one_node_is_the_masters_alone():
    roles = job_of(manifests_of("openshift-ai"))["spec"]["pytorchReplicaSpecs"]
    claims = {
        role: [volume["name"] for volume in replica["template"]["spec"]["volumes"] if "persistentVolumeClaim" in volume]
        for role, replica in roles.items()
    }
    assert claims == {"Master": ["output", "workspace"], "Worker": []}
    shared = job_of(manifests_of("generic-gpu"))["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["volumes"]
    assert [volume["name"] for volume in shared if "persistentVolumeClaim" in volume] == ["output", "workspace"]

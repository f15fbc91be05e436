"""Whom the network policy lets in and out."""

from deploy.profile import profile_names
from tests.deploy.jobs.rendered import manifests_of, policy_of


def test_without_egress_nothing_leaves_but_to_named_peers():
    assert all("to" in rule for rule in policy_of(manifests_of("cpu-smoke"))["spec"]["egress"])


def test_monitoring_alone_may_read_the_metrics():
    for profile in profile_names():
        policy = policy_of(manifests_of(profile))
        own, monitoring = policy["spec"]["ingress"]
        assert own == {"from": [{"podSelector": policy["spec"]["podSelector"]}]}
        assert monitoring["ports"] == [{"protocol": "TCP", "port": 8080}]
        assert "namespaceSelector" in monitoring["from"][0]
    silent = manifests_of("openshift-ai", "output.metrics_port=null")
    assert len(policy_of(silent)["spec"]["ingress"]) == 1

"""Each rule on metadata, claims, policies and what manifests must agree in catches its error."""

import pytest

from tests.deploy.jobs.broken import Mutations, assert_caught, drop, put

MUTATIONS: Mutations = {
    "other namespace": (lambda b: put("metadata/namespace", "other")(b.claim), "several namespaces"),
    "no namespace": (lambda b: [drop("metadata/namespace")(m) for m in b.manifests], "metadata.namespace is missing"),
    "bad label": (lambda b: put("metadata/labels/x", "a b")(b.job), "is not a label value"),
    "no application label": (lambda b: b.job["metadata"]["labels"].clear(), "app.kubernetes.io/name is missing"),
    "access mode": (lambda b: put("spec/accessModes", ["RWO"])(b.claim), "accessModes ['RWO']"),
    "volume size": (lambda b: put("spec/resources/requests/storage", "big")(b.claim), "'big' is not a size"),
    "a Service of one's own": (
        lambda b: b.manifests.append({"kind": "Service", "metadata": {**b.claim["metadata"], "name": "s"}}),
        "the training operator makes the Services",
    ),
    "policy for other pods": (
        lambda b: put("spec/podSelector", {"matchLabels": {"a": "b"}})(b.policy),
        "selects none of the job's pods",
    ),
    "policy that parts the ranks": (lambda b: put("spec/ingress", [])(b.policy), "the ranks could not meet"),
}  # fmt: skip


def test_there_are_enough_of_them():
    assert len(MUTATIONS) >= 9


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_error_is_caught(name):
    assert_caught(MUTATIONS[name])

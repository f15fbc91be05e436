"""Every profile's manifests: strict by Kubernetes' schemas, and the committed rendering of the flagship."""

from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from deploy.errors import ProfileError
from deploy.jobs.manifest_rules import problems
from deploy.jobs.manifests import render, to_yaml
from deploy.profile import plan_deployment, profile_names
from tests.deploy.jobs.rendered import manifests_of, templates_of

ROOT = Path(__file__).parents[3]
KUBERNETES = "1.32"


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


def test_render_refuses_what_breaks_a_rule():
    with pytest.raises(ProfileError, match="names no version") as caught:
        render(plan_deployment("cpu-smoke", image="registry/a:latest"))
    assert caught.value.exit_code == 2

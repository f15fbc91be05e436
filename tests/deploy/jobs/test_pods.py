"""What is in the container of a rank: the variables it is given, the port it serves."""

from pathlib import Path

import yaml

from deploy.profile import profile_names
from tests.deploy.jobs.rendered import IMAGE, manifests_of, templates_of

ROOT = Path(__file__).parents[3]


def test_every_rank_is_told_its_image():
    containers = [template["spec"]["containers"][0] for template in templates_of(manifests_of("openshift-ai"))]
    assert len(containers) == 2
    assert all({"name": "FIELDCRAFT_IMAGE", "value": IMAGE} in container["env"] for container in containers)


def test_no_network_is_said_so():
    environment = {
        item["name"]: item["value"]
        for item in templates_of(manifests_of("cpu-smoke"))[0]["spec"]["containers"][0]["env"]
    }
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_metrics_are_a_named_port():
    for profile in profile_names():
        ports = [template["spec"]["containers"][0]["ports"] for template in templates_of(manifests_of(profile))]
        assert all(one == [{"name": "metrics", "containerPort": 8080}] for one in ports)
    silent = manifests_of("openshift-ai", "output.metrics_port=null")
    assert "ports" not in templates_of(silent)[0]["spec"]["containers"][0]
    monitor = yaml.safe_load((ROOT / "deploy/monitoring/pod-monitor.yaml").read_text())["spec"]
    assert monitor["podMetricsEndpoints"][0]["port"] == "metrics"
    labels = templates_of(manifests_of("openshift-ai"))[0]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()

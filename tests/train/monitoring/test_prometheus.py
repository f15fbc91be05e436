"""A rank's metrics as Prometheus reads them, over HTTP; the dashboard asks for nothing that is not there."""

import json
import re
import urllib.request
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.free_ports import free_port
from train.distributed.topology import Topology
from train.monitoring.prometheus import PHASES, STEP_GAUGES, Exporter, open_exporter

MONITORING = Path(__file__).parents[3] / "deploy" / "monitoring"
IDENTITY = {"model.name": "embedded", "model": "f385befc", "data": "d0b14f8f"}


@pytest.fixture
def port():
    return free_port()


def read(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {sample.name: sample for family in families for sample in family.samples if sample.value}


def a_step(**more):
    return {"kind": "step", **{field: number for number, field in enumerate(STEP_GAUGES, 1)}, **more}


def test_what_prometheus_reads(port):
    (exporter,) = open_exporter(port, Topology(rank=1, world_size=2), 3, IDENTITY)
    exporter.enter("training")
    exporter.show(a_step(step=7, loss=2.5))
    exporter.show({"kind": "evaluation", "step": 7, "loss": 2.25})
    exporter.show({"kind": "epoch", "step": 7, "epoch": 1})
    found = read(port)
    assert found["fieldcraft_step"].value == 7
    assert found["fieldcraft_train_loss"].value == 2.5
    assert found["fieldcraft_evaluation_loss"].value == 2.25
    assert found["fieldcraft_restarts"].value == 3
    assert found["fieldcraft_phase"].labels == {"fieldcraft_phase": "training"}
    assert found["fieldcraft_run_info"].labels["rank"] == "1"
    assert found["process_resident_memory_bytes"].value > 2**20


def test_each_local_rank_has_a_port_of_its_own_and_a_taken_one_costs_no_run(port, capsys):
    assert open_exporter(port, Topology(), 0, IDENTITY)
    assert open_exporter(port, Topology(rank=1, local_rank=1, world_size=2, local_world_size=2), 0, IDENTITY)
    assert read(port + 1)["fieldcraft_run_info"].labels["rank"] == "1"
    assert open_exporter(port, Topology(), 0, IDENTITY) == []
    assert f"port {port} cannot be opened" in capsys.readouterr().err


def test_the_dashboard_asks_for_metrics_that_exist():
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    exporter = Exporter(Topology(), 0, IDENTITY)
    exporter.enter(PHASES[0])
    known = {sample.name for family in exporter.registry.collect() for sample in family.samples}
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    names = {name for expression in asked for name in re.findall(r"(?:fieldcraft|process)_\w+", expression)}
    assert len(names) > 8
    assert names <= known


def test_the_pod_monitor_finds_what_deploy_renders():
    from deploy.jobs.names import APPLICATION

    monitor = yaml.safe_load((MONITORING / "pod-monitor.yaml").read_text())
    wanted = monitor["spec"]["selector"]["matchLabels"]
    rendered = yaml.safe_load_all((MONITORING.parent / "pytorchjob.yaml").read_text())
    job = next(manifest for manifest in rendered if manifest["kind"] == "PyTorchJob")
    labels = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["metadata"]["labels"]
    assert wanted.items() <= labels.items()
    assert wanted["app.kubernetes.io/name"] == APPLICATION

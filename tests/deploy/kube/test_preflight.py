"""Each check by itself: what it says, and with which exit code."""

import io

import pytest
from rich.console import Console

from deploy.kube.preflight import (
    Check,
    check_image,
    check_job,
    check_limits,
    check_namespace,
    check_nodes,
    check_operator,
    check_queue,
    check_quotas,
    check_rights,
    check_secrets,
    check_version,
    check_volume,
    print_checks,
)
from deploy.profile import HubToken, Volume, plan_deployment

FLAGSHIP = plan_deployment("openshift-ai").profile
KUEUE = plan_deployment("kueue").profile


def node(gpus=1, *, product="NVIDIA-L40S", taint="nvidia.com/gpu", cpu="16", memory="64Gi"):
    return {
        "metadata": {"labels": {"nvidia.com/gpu.product": product}},
        "spec": {"taints": [{"key": taint, "effect": "NoSchedule"}]},
        "status": {"allocatable": {"cpu": cpu, "memory": memory, **({"nvidia.com/gpu": str(gpus)} if gpus else {})}},
    }


def quota(name, hard, used):
    return {"metadata": {"name": "q"}, "status": {"hard": {name: hard}, "used": {name: used}}}


def test_nodes_with_room():
    check = check_nodes(FLAGSHIP, [node(), node(), node(2)])
    assert (check.verdict, check.detail) == (
        "ok",
        "4 pod(s) of 1 nvidia.com/gpu, 6 CPU, 20Gi fit on 3 node(s), were they empty",
    )


@pytest.mark.parametrize(
    ("nodes", "sentence"),
    [
        ([node(), node()], "have room for 2, not for 4 pod(s)"),
        ([node(product="A100")], "node_selector"),
        ([node(taint="maintenance")], "tolerations leave none"),
        ([node(0)], "no node offers nvidia.com/gpu"),
        ([node(memory="8Gi")], "they are too small"),
        ([], "none of 0 node(s)"),
    ],
)
def test_nodes_without(nodes, sentence):
    check = check_nodes(FLAGSHIP, nodes)
    assert (check.verdict, check.exit_code) == ("fails", 12)
    assert sentence in check.detail


def test_nodes_that_may_not_be_seen_do_not_stop_anyone():
    assert check_nodes(FLAGSHIP, None).verdict == "unknown"


def test_quota():
    short = quota("requests.nvidia.com/gpu", "4", "1")
    check = next(check_quotas(FLAGSHIP, [short]))
    assert (check.verdict, check.exit_code) == ("fails", 16)
    assert "requests.nvidia.com/gpu: 4 needed, 4 allowed, 1 used (q)" in check.detail
    assert next(check_quotas(FLAGSHIP, [quota("requests.memory", "200Gi", "0")])).verdict == "ok"
    assert next(check_quotas(FLAGSHIP, None)).verdict == "unknown"


def test_limit_range():
    limits = [{"type": "Container", "max": {"memory": "16Gi"}}]
    check = next(check_limits(FLAGSHIP, [{"metadata": {"name": "l"}, "spec": {"limits": limits}}]))
    assert "memory 20Gi is above 16Gi (l)" in check.detail
    assert list(check_limits(FLAGSHIP, [])) == []


def storage_class(name, *, default=False):
    marks = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
    return {"metadata": {"name": name, "annotations": marks}}


@pytest.mark.parametrize(
    ("volume", "claim", "classes", "verdict", "sentence"),
    [
        (Volume(claim="c"), None, [storage_class("a", default=True)], "ok", "class a"),
        (
            Volume(claim="c"),
            None,
            [storage_class("a")],
            "fails",
            "no default storage class; set storage_class to one of: a",
        ),
        (Volume(claim="c", storage_class="b"), None, [storage_class("a")], "fails", "b does not exist; there are: a"),
        (Volume(claim="c"), None, None, "unknown", "will be created"),
        (
            Volume(claim="c"),
            {"spec": {"accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Bound"}},
            [],
            "ok",
            "Bound",
        ),
        (
            Volume(claim="c", access_mode="ReadWriteMany"),
            {"spec": {"accessModes": ["ReadWriteOnce"]}},
            [],
            "fails",
            "the profile wants ReadWriteMany",
        ),
    ],
)
def test_volumes(volume, claim, classes, verdict, sentence):
    check = check_volume(volume, claim, classes)
    assert check.verdict == verdict
    assert sentence in check.detail


def test_secrets():
    token = HubToken.model_validate({"secret": "s", "optional": False})
    required = FLAGSHIP.model_copy(update={"hub_token": token})
    assert [check.verdict for check in check_secrets(FLAGSHIP, {"huggingface-token": False})] == ["ok"]
    assert [check.verdict for check in check_secrets(required, {"s": False})] == ["fails"]
    assert [check.verdict for check in check_secrets(required, {"s": None})] == ["unknown"]


def test_queue():
    assert list(check_queue(FLAGSHIP, None, serves_queues=False)) == []
    assert next(check_queue(KUEUE, None, serves_queues=False)).verdict == "fails"
    assert "no LocalQueue default" in next(check_queue(KUEUE, None, serves_queues=True)).detail
    assert next(check_queue(KUEUE, {"metadata": {}}, serves_queues=True)).verdict == "ok"


def test_the_rest():
    assert check_version("v1.32.3").verdict == "ok"
    assert check_version("v1.19.0+k3s").verdict == "fails"
    assert check_version("dev").verdict == "unknown"
    assert check_operator(serves_jobs=True).verdict == "ok"
    assert "3.6 removed it" in check_operator(serves_jobs=False).detail
    assert [check_namespace(FLAGSHIP, found=found).verdict for found in (True, False, None)] == [
        "ok",
        "fails",
        "unknown",
    ]
    forbidden = check_rights({"create pods": False, "get pods/log": True})
    assert (forbidden.exit_code, forbidden.detail.startswith("we may not create pods:")) == (11, True)
    assert check_image("registry.example.com/a:1").exit_code == 2
    assert check_image("a@sha256:1").verdict == "ok"
    running = {"status": {"conditions": [{"type": "Running", "status": "True"}]}}
    assert check_job(FLAGSHIP, running).exit_code == 13
    assert check_job(FLAGSHIP, None).verdict == "ok"


def test_the_first_failure_decides_the_exit_code():
    found = [Check("a", "unknown", "?"), Check("b", "fails", "no", 11), Check("c", "fails", "no", 12)]
    out = io.StringIO()
    assert print_checks(found, Console(file=out)) == 11
    assert out.getvalue().split()[:2] == ["unknown", "a"]
    assert print_checks(found[:1], Console(file=out)) == 0

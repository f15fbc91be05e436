"""Manifests as `deploy` renders them, for the tests of what is in them."""

from typing import Any

from deploy.jobs.manifests import render
from deploy.profile import plan_deployment

IMAGE = f"registry.example.org/fieldcraft@sha256:{'0' * 64}"


def manifests_of(profile: str, *settings: str) -> list[dict[str, Any]]:
    return render(plan_deployment(profile, settings=settings, image=IMAGE))


def job_of(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    return next(manifest for manifest in manifests if manifest["kind"] == "PyTorchJob")


def templates_of(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [replica["template"] for replica in job_of(manifests)["spec"]["pytorchReplicaSpecs"].values()]


def policy_of(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    return next(manifest for manifest in manifests if manifest["kind"] == "NetworkPolicy")

"""The flagship's manifests, to be broken in one place at a time."""

import json
from collections.abc import Callable
from typing import Any

from deploy.jobs.manifest_rules import problems
from deploy.jobs.manifests import render
from deploy.profile import plan_deployment

Manifests = list[dict[str, Any]]


class Broken:
    """The flagship's manifests, to be broken: shortcuts to the places."""

    def __init__(self) -> None:
        self.manifests: Manifests = json.loads(json.dumps(render(plan_deployment("openshift-ai"))))
        self.job = self.manifests[-1]
        self.spec = self.job["spec"]
        self.policy = self.manifests[-2]
        self.claim = self.manifests[0]
        self.replicas = self.spec["pytorchReplicaSpecs"]

    def pods(self) -> list[dict[str, Any]]:
        return [replica["template"]["spec"] for replica in self.replicas.values()]

    def containers(self) -> list[dict[str, Any]]:
        return [pod["containers"][0] for pod in self.pods()]


def in_pods(change: Callable[[dict[str, Any]], Any]) -> Callable[[Broken], Any]:
    return lambda broken: [change(pod) for pod in broken.pods()]


def in_containers(change: Callable[[dict[str, Any]], Any]) -> Callable[[Broken], Any]:
    return lambda broken: [change(container) for container in broken.containers()]


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set a dotted path; numbers index lists."""

    def change(target: Any) -> None:
        *parents, last = path.split("/")
        for parent in parents:
            target = target[int(parent)] if isinstance(target, list) else target[parent]
        target[last] = value

    return change


def drop(path: str) -> Callable[[dict[str, Any]], None]:
    def change(target: Any) -> None:
        *parents, last = path.split("/")
        for parent in parents:
            target = target[int(parent)] if isinstance(target, list) else target[parent]
        del target[last]

    return change


def env(name: str, value: Any) -> Callable[[Broken], Any]:
    return in_containers(lambda container: container["env"].append({"name": name, "value": value}))


def without_env(name: str) -> Callable[[Broken], Any]:
    def change(container: dict[str, Any]) -> None:
        container["env"] = [item for item in container["env"] if item["name"] != name]

    return in_containers(change)


def volume(name: str, source: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    def change(pod: dict[str, Any]) -> None:
        pod["volumes"] = [{"name": name, **source} if one["name"] == name else one for one in pod["volumes"]]

    return change


Mutations = dict[str, tuple[Callable[[Broken], Any], str]]


def assert_caught(mutation: tuple[Callable[[Broken], Any], str]) -> None:
    """The rules find nothing before the change, and after it the problem that the sentence names."""
    change, sentence = mutation
    broken = Broken()
    assert problems(broken.manifests) == []
    change(broken)
    found = problems(broken.manifests)
    assert any(sentence in problem for problem in found), found

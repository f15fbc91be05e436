"""Manifests are a pure function of a run and a cluster profile: plain dictionaries come out, and those as YAML.

What the training operator owns (ranks, addresses, Services) is not here; what it does not do (caches, /dev/shm, a
network policy, volumes by access mode) is.
"""

from typing import Any

import yaml

from deploy.errors import ProfileError
from deploy.jobs.manifest_rules import problems
from deploy.jobs.names import Manifest
from deploy.jobs.network import network_policy
from deploy.jobs.pytorchjob import pytorch_job
from deploy.jobs.volumes import claim
from deploy.profile import Deployment


def render(deployment: Deployment) -> list[Manifest]:
    """Return volumes, network policy and job, in the order in which they are created.

    Raises:
        ProfileError: the manifests break a rule of `deploy.jobs.manifest_rules`.
    """
    profile = deployment.profile
    manifests = [
        *(claim(profile, volume) for volume in profile.volumes),
        network_policy(deployment),
        pytorch_job(deployment),
    ]
    found = problems(manifests)
    if found:
        raise ProfileError(f"profile {deployment.profile_name} renders manifests that cannot work: {'; '.join(found)}")
    return manifests


def to_yaml(manifests: list[Manifest], profile_name: str, command: str = "render") -> str:
    """Return the manifests as YAML that `kubectl apply -f -` takes, under a line that says how it was made."""
    header = f"# Rendered by `python -m deploy {command} {profile_name}`; kubectl apply -f - takes it as it is.\n"
    return header + yaml.dump_all(manifests, Dumper=_PlainDumper, sort_keys=False, width=120)


class _PlainDumper(yaml.SafeDumper):
    """Writes a value that occurs twice out twice, where yaml would write an anchor, and lines as lines."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.Node:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_PlainDumper.add_representer(str, _PlainDumper.represent_text)

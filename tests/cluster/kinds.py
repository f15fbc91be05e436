"""The kinds the API server knows, and the documents by which clients discover them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.status import Object

VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
SERVER_VERSION = {"major": "1", "minor": "32", "gitVersion": "v1.32.3", "platform": "linux/amd64"}


@dataclass(frozen=True)
class Kind:
    """One resource type. Group, version and plural say which; the rest describes it."""

    group: str
    version: str
    plural: str
    name: str = field(compare=False)
    namespaced: bool = field(default=True, compare=False)
    short: tuple[str, ...] = field(default=(), compare=False)
    has_status: bool = field(default=False, compare=False)
    subresources: tuple[str, ...] = field(default=(), compare=False)
    is_custom: bool = field(default=False, compare=False)

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def prefix(self) -> str:
        """The path of the group and version, without a leading slash."""
        return f"apis/{self.api_version}" if self.group else f"api/{self.version}"

    @property
    def resource(self) -> str:
        """As messages name it: `pods`, `pytorchjobs.kubeflow.org`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


POD = Kind("", "v1", "pods", "Pod", short=("po",), has_status=True, subresources=("log", "exec"))
NAMESPACE = Kind("", "v1", "namespaces", "Namespace", namespaced=False, short=("ns",), has_status=True)
NODE = Kind("", "v1", "nodes", "Node", namespaced=False, short=("no",), has_status=True)
SERVICE = Kind("", "v1", "services", "Service", short=("svc",), has_status=True)
EVENT = Kind("", "v1", "events", "Event", short=("ev",))
CLAIM = Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", short=("pvc",), has_status=True)
SECRET = Kind("", "v1", "secrets", "Secret")
CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap", short=("cm",))
QUOTA = Kind("", "v1", "resourcequotas", "ResourceQuota", short=("quota",), has_status=True)
LIMIT_RANGE = Kind("", "v1", "limitranges", "LimitRange", short=("limits",))
SERVICE_ACCOUNT = Kind("", "v1", "serviceaccounts", "ServiceAccount", short=("sa",))
NETWORK_POLICY = Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", short=("netpol",))
STORAGE_CLASS = Kind("storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False, short=("sc",))
CRD = Kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False, ("crd",), True)
ACCESS_REVIEW = Kind(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False
)
JOB = Kind("kubeflow.org", "v1", "pytorchjobs", "PyTorchJob", has_status=True, subresources=("scale",), is_custom=True)
LOCAL_QUEUE = Kind("kueue.x-k8s.io", "v1beta1", "localqueues", "LocalQueue", has_status=True, is_custom=True)

BUILT_IN = (
    POD,
    NAMESPACE,
    NODE,
    SERVICE,
    EVENT,
    CLAIM,
    SECRET,
    CONFIG_MAP,
    QUOTA,
    LIMIT_RANGE,
    SERVICE_ACCOUNT,
    NETWORK_POLICY,
    STORAGE_CLASS,
    CRD,
    ACCESS_REVIEW,
)


def kinds_of_definition(definition: Object) -> Iterable[Kind]:
    """The kinds a CustomResourceDefinition adds, one per served version."""
    spec = definition["spec"]
    for version in spec["versions"]:
        if version["served"]:
            subresources = version.get("subresources", {})
            yield Kind(
                spec["group"],
                version["name"],
                spec["names"]["plural"],
                spec["names"]["kind"],
                namespaced=spec["scope"] == "Namespaced",
                short=tuple(spec["names"].get("shortNames", ())),
                has_status="status" in subresources,
                is_custom=True,
            )


def api_groups(kinds: Iterable[Kind]) -> Object:
    """The answer to `GET /apis`."""
    groups: dict[str, list[Object]] = {}
    for kind in kinds:
        entry = {"groupVersion": kind.api_version, "version": kind.version}
        if kind.group and entry not in groups.setdefault(kind.group, []):
            groups[kind.group].append(entry)
    listed = [{"name": name, "versions": entries, "preferredVersion": entries[0]} for name, entries in groups.items()]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}


def resource_list(kinds: Iterable[Kind], group_version: str) -> Object:
    """The answer to `GET /api/v1` or `/apis/GROUP/VERSION`."""
    resources: list[Object] = []
    for kind in kinds:
        if kind.api_version != group_version:
            continue
        common = {"singularName": kind.name.lower(), "namespaced": kind.namespaced, "kind": kind.name}
        verbs = ["create"] if kind is ACCESS_REVIEW else VERBS
        resources.append({"name": kind.plural, **common, "verbs": verbs, "shortNames": list(kind.short)})
        if kind.has_status:
            resources.append({"name": f"{kind.plural}/status", **common, "verbs": ["get", "patch", "update"]})
        for subresource in kind.subresources:
            resources.append({"name": f"{kind.plural}/{subresource}", **common, "verbs": ["get", "create"]})
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}


def openapi_index(kinds: Iterable[Kind]) -> Object:
    prefixes = dict.fromkeys(kind.prefix for kind in kinds)
    return {"paths": {prefix: {"serverRelativeURL": f"/openapi/v3/{prefix}?hash=1"} for prefix in prefixes}}


def openapi_document(kinds: Iterable[Kind], prefix: str) -> Object:
    """A document that says just enough: every kind can be patched, and unknown fields can be refused on request."""
    paths: dict[str, Any] = {}
    for kind in kinds:
        if kind.prefix != prefix:
            continue
        scope = "/namespaces/{namespace}" if kind.namespaced else ""
        group_version_kind = {"group": kind.group, "version": kind.version, "kind": kind.name}
        operation = {
            "operationId": f"patch{kind.group}{kind.name}",
            "parameters": [
                {"name": name, "in": "query", "schema": {"type": "string"}}
                for name in ("dryRun", "fieldManager", "fieldValidation", "force")
            ],
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-action": "patch",
            "x-kubernetes-group-version-kind": group_version_kind,
        }
        paths[f"/{prefix}{scope}/{kind.plural}/{{name}}"] = {"patch": operation}
    info = {"title": "Kubernetes", "version": SERVER_VERSION["gitVersion"]}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": {}}}

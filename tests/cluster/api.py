"""What requests do, without HTTP: create, update, patch and delete with validation, admission and garbage collection.

The operator and the kubelet go through here as well, so a quota or a broken Service stops them as it would for real.
"""

import copy
import secrets
from collections.abc import Callable
from typing import Any

from tests.cluster.admission import Gate, check_quota
from tests.cluster.kinds import ACCESS_REVIEW, BUILT_IN, CRD, EVENT, NAMESPACE, POD, Kind, kinds_of_definition
from tests.cluster.patches import patched
from tests.cluster.selectors import field_at
from tests.cluster.status import ApiError, Object, already_exists, not_found
from tests.cluster.store import Store, now
from tests.cluster.validation import Validator, built_in_validator, checked, custom_validator

FOREGROUND = "foregroundDeletion"
# An admission plug-in may change the object it is given, or refuse it with an ApiError. `old` is None on creation.
Admission = Callable[[Kind, Object, Object | None], None]


class Api:
    """The API machinery over one store."""

    def __init__(self) -> None:
        self.store = Store()
        self.gate = Gate()
        self.admissions: list[Admission] = []
        self._validators: dict[Kind, Validator] = {}

    def kinds(self) -> list[Kind]:
        """Built-in kinds, and those of the installed CustomResourceDefinitions."""
        custom = [kind for definition in self.store.select(CRD) for kind in kinds_of_definition(definition)]
        return [*BUILT_IN, *custom]

    def kind_at(self, group: str, version: str, plural: str) -> Kind:
        for kind in self.kinds():
            if (kind.group, kind.version, kind.plural) == (group, version, plural):
                return kind
        raise ApiError(404, "the server could not find the requested resource")

    def create(self, kind: Kind, item: Object, *, validation: str = "Strict", dry_run: bool = False) -> Object:
        """Add an object after validation, admission and quota.

        Raises:
            ApiError: 400, 403, 404 (no such namespace), 409 or 422.
        """
        item = copy.deepcopy(item)
        metadata = item.setdefault("metadata", {})
        if "generateName" in metadata and "name" not in metadata:
            metadata["name"] = metadata["generateName"] + secrets.token_hex(3)[:5]
        if kind.namespaced and self.store.find(NAMESPACE, "", metadata["namespace"]) is None:
            raise not_found("namespaces", metadata["namespace"])
        item = self._checked(kind, item, validation)
        for admit in self.admissions:
            admit(kind, item, None)
        check_quota(self.store, kind, item)
        if kind == POD:
            item["status"] = {"phase": "Pending", "qosClass": "Burstable"}
        if dry_run:
            if self.store.find(kind, metadata.get("namespace", ""), metadata["name"]):
                raise already_exists(kind.resource, metadata["name"])
            return {**item, "metadata": {**metadata, "uid": "dry-run", "creationTimestamp": now()}}
        return self.store.create(kind, item)

    def update(
        self, kind: Kind, item: Object, *, status_only: bool = False, validation: str = "Strict", dry_run: bool = False
    ) -> Object:
        """Replace the status, or everything else; what the other path owns is kept as it is.

        Raises:
            ApiError: 400, 403, 404, 409 or 422.
        """
        old = self.store.get(kind, item["metadata"].get("namespace", ""), item["metadata"]["name"])
        if status_only:
            version = item["metadata"].get("resourceVersion")
            item = {
                **old,
                "status": item.get("status", {}),
                "metadata": {**old["metadata"], "resourceVersion": version},
            }
        elif kind.has_status and "status" in old:
            item = {**item, "status": old["status"]}
        item = self._checked(kind, item, validation)
        if not status_only:
            for admit in self.admissions:
                admit(kind, item, old)
        return item if dry_run else self.store.replace(kind, item)

    def patch(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        content_type: str,
        body: Any,
        *,
        status_only: bool = False,
        validation: str = "Strict",
        dry_run: bool = False,
    ) -> tuple[Object, bool]:
        """The patched object, and whether it was created (server-side apply only)."""
        old = self.store.find(kind, namespace, name)
        if old is None and content_type == "application/apply-patch+yaml":
            body = {**body, "metadata": {**body.get("metadata", {}), "name": name}}
            if kind.namespaced:
                body["metadata"]["namespace"] = namespace
            return self.create(kind, body, validation=validation, dry_run=dry_run), True
        if old is None:
            raise not_found(kind.resource, name)
        new = patched(content_type, old, body)
        return self.update(kind, new, status_only=status_only, validation=validation, dry_run=dry_run), False

    def delete(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        *,
        grace_seconds: int | None = None,
        propagation: str = "Background",
    ) -> Object:
        """Start to delete. A pod stays until its kubelet has stopped it; an owner, until its dependents are gone
        if `propagation` is Foreground."""
        item = self.store.get(kind, namespace, name)
        metadata = item["metadata"]
        if propagation == "Orphan":
            self._orphan_dependents(metadata["uid"])
        if kind == POD and field_at(item, "spec.nodeName") and grace_seconds != 0 and not _is_finished(item):
            if not metadata.get("deletionTimestamp"):
                grace = (
                    grace_seconds if grace_seconds is not None else item["spec"].get("terminationGracePeriodSeconds")
                )
                metadata |= {"deletionTimestamp": now(), "deletionGracePeriodSeconds": 30 if grace is None else grace}
                return self.store.replace(kind, item)
            return item
        dependents = list(self.store.owned_by(metadata["uid"]))
        if propagation == "Foreground" and dependents:
            metadata |= {"deletionTimestamp": now(), "finalizers": [FOREGROUND]}
            item = self.store.replace(kind, item)
            self._delete_dependents(metadata["uid"])
            return item
        return self._remove(kind, item)

    def finish_deletion(self, kind: Kind, namespace: str, name: str) -> None:
        """Take out an object whose deletion waited for its kubelet."""
        if (item := self.store.find(kind, namespace, name)) is not None:
            self._remove(kind, item)

    def _remove(self, kind: Kind, item: Object) -> Object:
        removed = self.store.remove(kind, item["metadata"].get("namespace", ""), item["metadata"]["name"])
        self._delete_dependents(item["metadata"]["uid"])
        for owner in item["metadata"].get("ownerReferences", ()):
            self._release_owner(owner["uid"])
        if kind == CRD:
            for custom in kinds_of_definition(item):
                for instance in self.store.select(custom):
                    self.delete(custom, instance["metadata"].get("namespace", ""), instance["metadata"]["name"])
        return removed

    def _release_owner(self, uid: str) -> None:
        if any(True for _ in self.store.owned_by(uid)):
            return
        for kind in self.kinds():
            for owner in self.store.select(kind):
                metadata = owner["metadata"]
                if metadata["uid"] == uid and metadata.get("finalizers") == [FOREGROUND]:
                    self._remove(kind, owner)

    def _delete_dependents(self, uid: str) -> None:
        for kind, item in self.store.owned_by(uid):
            self.delete(kind, item["metadata"].get("namespace", ""), item["metadata"]["name"])

    def _orphan_dependents(self, uid: str) -> None:
        for kind, item in self.store.owned_by(uid):
            references = [owner for owner in item["metadata"]["ownerReferences"] if owner["uid"] != uid]
            item["metadata"]["ownerReferences"] = references
            self.store.replace(kind, item)

    def access_review(self, item: Object) -> Object:
        """The answer to a SelfSubjectAccessReview."""
        asked = item["spec"].get("resourceAttributes", {})
        plural = asked.get("resource", "*")
        if asked.get("subresource"):
            plural += f"/{asked['subresource']}"
        allowed = self.gate.allows(asked.get("verb", "*"), plural)
        answer = {"allowed": allowed} if allowed else {"allowed": False, "reason": "no role grants it"}
        return {**item, "apiVersion": ACCESS_REVIEW.api_version, "kind": ACCESS_REVIEW.name, "status": answer}

    def record_event(self, about: Kind, item: Object, type_: str, reason: str, message: str, source: str) -> None:
        """Write an event; the same one again raises its count."""
        metadata = item["metadata"]
        namespace = metadata.get("namespace") or "default"
        for event in self.store.select(EVENT, namespace, fields=f"involvedObject.uid={metadata['uid']}"):
            if (event["reason"], event["message"]) == (reason, message):
                self.store.replace(EVENT, {**event, "count": event["count"] + 1, "lastTimestamp": now()})
                return
        name = f"{metadata['name']}.{secrets.token_hex(8)}"
        self.store.create(
            EVENT,
            {
                "metadata": {"name": name, "namespace": namespace},
                "involvedObject": {
                    "apiVersion": about.api_version,
                    "kind": about.name,
                    "name": metadata["name"],
                    "namespace": namespace,
                    "uid": metadata["uid"],
                },
                "type": type_,
                "reason": reason,
                "message": message,
                "count": 1,
                "source": {"component": source},
                "firstTimestamp": now(),
                "lastTimestamp": now(),
            },
        )

    def _checked(self, kind: Kind, item: Object, validation: str) -> Object:
        if not kind.is_custom:
            return checked(built_in_validator(kind), kind, item, validation)
        if kind not in self._validators:
            definition = self.store.get(CRD, "", kind.resource)
            self._validators[kind] = custom_validator(definition, kind)
        return checked(self._validators[kind], kind, item, validation)


def _is_finished(pod: Object) -> bool:
    return field_at(pod, "status.phase") in ("Succeeded", "Failed")

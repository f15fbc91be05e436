"""All objects of the cluster, their revisions, and who watches them. Used from one event loop only."""

import asyncio
import copy
import datetime
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.cluster.kinds import POD, Kind
from tests.cluster.selectors import matches_fields, matches_labels
from tests.cluster.status import ApiError, Object, already_exists, conflict, not_found

Key = tuple[str, str, str, str]  # group, plural, namespace, name


@dataclass(frozen=True)
class Change:
    """One entry of the history: ADDED, MODIFIED or DELETED, and the object as it was then."""

    revision: int
    type: str
    kind: Kind
    item: Object


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """Objects by key, with the history that watches replay."""

    def __init__(self) -> None:
        self.revision = 0
        self.oldest_revision = 0
        self._objects: dict[Key, tuple[Kind, Object]] = {}
        self._history: list[Change] = []
        self._listeners: set[asyncio.Queue[Change]] = set()

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """A copy of the object.

        Raises:
            ApiError: 404.
        """
        entry = self._objects.get(self._key(kind, namespace, name))
        if entry is None:
            raise not_found(kind.resource, name)
        return copy.deepcopy(entry[1])

    def find(self, kind: Kind, namespace: str, name: str) -> Object | None:
        entry = self._objects.get(self._key(kind, namespace, name))
        return copy.deepcopy(entry[1]) if entry else None

    def select(self, kind: Kind, namespace: str = "", labels: str = "", fields: str = "") -> list[Object]:
        """Copies of all objects of a kind, of one namespace or of all, in the order of their names."""
        found = []
        for (group, plural, space, _), (_, item) in sorted(self._objects.items(), key=lambda entry: entry[0]):
            if (group, plural) != (kind.group, kind.plural) or (namespace and space != namespace):
                continue
            if selects(item, labels, fields):
                found.append(copy.deepcopy(item))
        return found

    def owned_by(self, uid: str) -> Iterator[tuple[Kind, Object]]:
        """Every object that names this uid among its owners."""
        for kind, item in list(self._objects.values()):
            if any(owner["uid"] == uid for owner in item["metadata"].get("ownerReferences", ())):
                yield kind, copy.deepcopy(item)

    def create(self, kind: Kind, item: Object) -> Object:
        """Add an object, with uid, creation time, generation and revision.

        Raises:
            ApiError: 409 where it is there already.
        """
        item = copy.deepcopy(item)
        metadata = item["metadata"]
        key = self._key(kind, metadata.get("namespace", ""), metadata["name"])
        if key in self._objects:
            raise already_exists(kind.resource, metadata["name"])
        item["apiVersion"], item["kind"] = kind.api_version, kind.name
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "generation": 1}
        return self._record("ADDED", kind, key, item)

    def replace(self, kind: Kind, item: Object) -> Object:
        """Put a changed object in place; nothing happens where nothing changed.

        Raises:
            ApiError: 404, or 409 where its resourceVersion is not the stored one's.
        """
        item = copy.deepcopy(item)
        metadata = item["metadata"]
        old = self.get(kind, metadata.get("namespace", ""), metadata["name"])
        if metadata.get("resourceVersion") not in (None, "", old["metadata"]["resourceVersion"]):
            raise conflict(kind.resource, metadata["name"])
        for name in ("uid", "creationTimestamp", "resourceVersion", "generation"):
            metadata[name] = old["metadata"][name]
        if item.get("spec") != old.get("spec"):
            metadata["generation"] += 1
        if item == old:
            return old
        key = self._key(kind, metadata.get("namespace", ""), metadata["name"])
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers") and kind != POD:  # its kubelet does
            return self.remove(kind, key[2], key[3])
        return self._record("MODIFIED", kind, key, item)

    def remove(self, kind: Kind, namespace: str, name: str) -> Object:
        """Take an object out at once."""
        key = self._key(kind, namespace, name)
        _, item = self._objects.pop(key, (kind, None))
        if item is None:
            raise not_found(kind.resource, name)
        return self._record("DELETED", kind, key, item)

    def _record(self, type_: str, kind: Kind, key: Key, item: Object) -> Object:
        self.revision += 1
        item["metadata"]["resourceVersion"] = str(self.revision)
        if type_ != "DELETED":
            self._objects[key] = (kind, item)
        change = Change(self.revision, type_, kind, copy.deepcopy(item))
        self._history.append(change)
        for listener in self._listeners:
            listener.put_nowait(change)
        return copy.deepcopy(item)

    @staticmethod
    def _key(kind: Kind, namespace: str, name: str) -> Key:
        return kind.group, kind.plural, namespace if kind.namespaced else "", name

    def forget_history(self) -> None:
        """As etcd's compaction: a watch that asks for an older revision is told 410."""
        self.oldest_revision = self.revision
        self._history.clear()

    def since(self, revision: int) -> list[Change]:
        """What happened after a revision.

        Raises:
            ApiError: 410 where that is forgotten.
        """
        if revision < self.oldest_revision:
            raise ApiError(410, f"too old resource version: {revision} ({self.oldest_revision})")
        return [change for change in self._history if change.revision > revision]

    @contextmanager
    def listen(self) -> Iterator[asyncio.Queue[Change]]:
        """A queue that gets every change from now on."""
        queue: asyncio.Queue[Change] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            yield queue
        finally:
            self._listeners.discard(queue)


def selects(item: Object, labels: str, fields: str) -> bool:
    return matches_labels(labels, item["metadata"].get("labels") or {}) and matches_fields(fields, item)

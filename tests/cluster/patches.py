"""The four ways to patch: JSON merge, strategic merge, JSON patch and server-side apply."""

import copy
from typing import Any

from tests.cluster.status import ApiError, Object

# Lists that are maps by one of their fields. Where both columns stand, the first that an element has counts.
MERGE_KEYS = {
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "volumeMounts": ("mountPath",),
    "ports": ("containerPort", "port"),
    "conditions": ("type",),
    "ownerReferences": ("uid",),
}
SCALAR_SETS = ("finalizers",)


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386.

    >>> merge_patch({"a": 1, "b": {"c": 2}}, {"a": None, "b": {"d": 3}})
    {'b': {'c': 2, 'd': 3}}
    """
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def strategic_merge(target: Any, patch: Any) -> Any:
    """Kubernetes' merge: as RFC 7386, but lists of named things are merged by name.

    >>> strategic_merge({"env": [{"name": "A", "value": "1"}]}, {"env": [{"name": "B", "value": "2"}]})
    {'env': [{'name': 'A', 'value': '1'}, {'name': 'B', 'value': '2'}]}
    """
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    if patch.get("$patch") == "replace":
        return {name: value for name, value in patch.items() if name != "$patch"}
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if name.startswith("$deleteFromPrimitiveList/"):
            field = name.split("/", 1)[1]
            merged[field] = [element for element in merged.get(field, []) if element not in value]
        elif name.startswith("$"):  # $setElementOrder and $retainKeys refine an order we keep anyway
            continue
        elif value is None:
            merged.pop(name, None)
        elif isinstance(value, list) and name in SCALAR_SETS:
            merged[name] = [*merged.get(name, []), *(item for item in value if item not in merged.get(name, []))]
        elif isinstance(value, list) and name in MERGE_KEYS:
            merged[name] = _merge_named(merged.get(name) or [], value, MERGE_KEYS[name])
        else:
            merged[name] = strategic_merge(merged.get(name), value)
    return merged


def _merge_named(target: list[Any], patch: list[Any], keys: tuple[str, ...]) -> list[Any]:
    merged = list(target)
    for element in patch:
        key = next((key for key in keys if isinstance(element, dict) and key in element), None)
        index = next((i for i, old in enumerate(merged) if key and old.get(key) == element[key]), None)
        if isinstance(element, dict) and element.get("$patch") == "delete":
            merged = [old for old in merged if not (key and old.get(key) == element[key])]
        elif index is None:
            merged.append(copy.deepcopy(element))
        else:
            merged[index] = strategic_merge(merged[index], element)
    return merged


def json_patch(target: Object, operations: list[Object]) -> Object:
    """RFC 6902: add, replace, remove and test.

    >>> json_patch({"spec": {"a": 1}}, [{"op": "replace", "path": "/spec/a", "value": 2}])
    {'spec': {'a': 2}}
    """
    patched = copy.deepcopy(target)
    for operation in operations:
        _apply_operation(patched, operation)
    return patched


def _apply_operation(target: Object, operation: Object) -> None:
    path = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    parent: Any = target
    try:
        for part in path[:-1]:
            parent = parent[int(part) if isinstance(parent, list) else part]
        _change(parent, path[-1], operation)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        message = f"the server rejected our request due to an error in our request: {operation} ({error})"
        raise ApiError(422, message) from error


def _change(parent: Any, last: str, operation: Object) -> None:
    kind = operation["op"]
    if isinstance(parent, list):
        index = len(parent) if last == "-" else int(last)
        if kind == "add":
            parent.insert(index, operation["value"])
        elif kind == "replace":
            parent[index] = operation["value"]
        elif kind == "remove":
            del parent[index]
    elif kind in ("add", "replace"):
        parent[last] = operation["value"]
    elif kind == "remove":
        del parent[last]
    if kind == "test" and (parent[int(last)] if isinstance(parent, list) else parent.get(last)) != operation["value"]:
        raise ApiError(422, f"testing path {operation['path']} value failed")


def patched(content_type: str, target: Object, patch: Any) -> Object:
    """The object after a patch of that media type.

    Raises:
        ApiError: 415 for another media type.
    """
    if content_type == "application/merge-patch+json":
        result = merge_patch(target, patch)
    elif content_type in ("application/strategic-merge-patch+json", "application/apply-patch+yaml"):
        result = strategic_merge(target, patch)
    elif content_type == "application/json-patch+json":
        result = json_patch(target, patch)
    else:
        raise ApiError(415, f"the body of the request was in an unknown format: {content_type}")
    assert isinstance(result, dict)
    return result

"""Is an object what its schema says? Unknown fields are refused (Strict) or dropped; wrong values are refused.

Custom kinds are checked against the schema in their CustomResourceDefinition, built-in ones against Kubernetes' own.
"""

import copy
import functools
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import importlib_resources
import jsonschema
from referencing import Registry, Resource

from tests.cluster.kinds import POD, SERVICE, Kind
from tests.cluster.quantities import amount
from tests.cluster.status import ApiError, Object, invalid

SCHEMA_FOLDER = "kubernetes-json-schema/v1.32.0-local-strict"
DNS_1123 = re.compile(r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")
DNS_1035 = re.compile(r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")
LABEL_VALUE = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9])?$")
LABEL_KEY = re.compile(r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")

Validator = jsonschema.Draft202012Validator


def strict_schema(schema: Any) -> Any:
    """A structural schema that allows no field it does not name.

    >>> strict_schema({"properties": {"a": {"type": "string"}}})["additionalProperties"]
    False
    """
    if isinstance(schema, list):
        return [strict_schema(element) for element in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {name: strict_schema(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    return strict


def custom_validator(definition: Object, kind: Kind) -> Validator:
    version = next(version for version in definition["spec"]["versions"] if version["name"] == kind.version)
    schema = strict_schema(version["schema"]["openAPIV3Schema"])
    schema.get("properties", {})["metadata"] = {"type": "object"}
    return Validator(schema)


@functools.cache
def built_in_validator(kind: Kind) -> Validator | None:
    """Kubernetes' own schema of a kind, as the package kubernetes-validate carries it; None where it has none."""
    group = kind.group.split(".")[0]
    file_name = f"{kind.name.lower()}-{group}-{kind.version}.json" if group else f"{kind.name.lower()}-v1.json"
    file = _schema_folder() / file_name
    if not file.is_file():
        return None
    schema = Resource.from_contents(json.loads(file.read_text()))
    return Validator(schema.contents, registry=schema @ _definitions())


def _schema_folder() -> Any:
    folder = importlib_resources.files("kubernetes_validate").joinpath(SCHEMA_FOLDER)
    assert folder.is_dir(), f"kubernetes-validate carries no {SCHEMA_FOLDER}"
    return folder


@functools.cache
def _definitions() -> Registry[Any]:
    definitions = Resource.from_contents(json.loads((_schema_folder() / "_definitions.json").read_text()))
    return definitions @ Registry()


def checked(validator: Validator | None, kind: Kind, item: Object, field_validation: str) -> Object:
    """The object without unknown fields, which `Strict` refuses.

    Raises:
        ApiError: 400 for unknown fields, 422 for wrong values.
    """
    item = copy.deepcopy(item)
    errors = list(validator.iter_errors(_without_nulls(item))) if validator else []
    unknown = [(list(error.absolute_path), name) for error in errors for name in _unknown_fields(error)]
    if unknown and field_validation == "Strict":
        problems = ", ".join(f'unknown field "{_dotted([*path, name])}"' for path, name in unknown)
        message = f"strict decoding error: {problems}"
        if not kind.is_custom:
            message = f'{kind.name} in version "{kind.version}" cannot be handled as a {kind.name}: {message}'
        raise ApiError(400, message)
    for path, name in unknown:
        _drop(item, path, name)
    wrong = [_sentence(error) for error in errors if error.validator != "additionalProperties"]
    wrong += semantic_problems(kind, item)
    if wrong:
        raise invalid(kind.name, kind.group, item["metadata"].get("name", ""), wrong)
    return item


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value


def _unknown_fields(error: jsonschema.ValidationError) -> list[str]:
    if error.validator != "additionalProperties" or error.validator_value is not False:
        return []
    schema: Any = error.schema
    instance: Any = error.instance
    return sorted(set(instance) - set(schema.get("properties", ())))


def _drop(item: Any, path: list[Any], name: str) -> None:
    for part in path:
        item = item[part]
    item.pop(name, None)


def _dotted(path: list[Any]) -> str:
    """
    >>> _dotted(["spec", "containers", 0, "image"])
    'spec.containers[0].image'
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def _sentence(error: jsonschema.ValidationError) -> str:
    path = _dotted(list(error.absolute_path))
    if error.validator == "required":
        required: Any = error.validator_value
        instance: Any = error.instance
        missing = next(name for name in required if name not in instance)
        return f"{path + '.' if path else ''}{missing}: Required value"
    if error.validator == "type":
        names = {str: "string", bool: "boolean", int: "integer", float: "number", dict: "object", list: "array"}
        found = names.get(type(error.instance), "null")
        return f'{path}: Invalid value: "{found}": {path} in body must be of type {error.validator_value}: "{found}"'
    return f"{path}: Invalid value: {json.dumps(error.instance)}: {error.message}"


def semantic_problems(kind: Kind, item: Object) -> list[str]:
    """What no schema says: names, labels, and for pods and Services what refers to what."""
    problems = list(_metadata_problems(kind, item["metadata"]))
    if kind == POD:
        problems += pod_problems(item["spec"])
    if kind == SERVICE:
        problems += _port_problems(item["spec"].get("ports", []))
    return problems


def _metadata_problems(kind: Kind, metadata: Object) -> Iterator[str]:
    name = metadata.get("name", "")
    if not (DNS_1035 if kind == SERVICE else DNS_1123).match(name):
        rule = "a DNS-1035 label" if kind == SERVICE else "a lowercase RFC 1123 subdomain"
        yield f'metadata.name: Invalid value: "{name}": {rule} must consist of lower case alphanumeric characters'
    for key, value in (metadata.get("labels") or {}).items():
        if not (LABEL_KEY.match(key) and isinstance(value, str) and LABEL_VALUE.match(value)):
            yield f'metadata.labels: Invalid value: "{key}={value}": not a valid label'


def _port_problems(ports: list[Object]) -> Iterator[str]:
    counted = Counter((port.get("protocol", "TCP"), port["port"]) for port in ports)
    for (protocol, port), count in counted.items():
        if count > 1:
            yield f'spec.ports[{count - 1}]: Duplicate value: {{"protocol":"{protocol}","port":{port}}}'


def pod_problems(spec: Object) -> Iterator[str]:
    """What a pod's parts must agree on: volumes and mounts, requests and limits, names that are used once."""
    volumes = [volume["name"] for volume in spec.get("volumes", ())]
    yield from _repeated(volumes, "spec.volumes")
    containers = spec.get("containers", [])
    yield from _repeated([container["name"] for container in containers], "spec.containers")
    for index, container in enumerate(containers):
        path = f"spec.containers[{index}]"
        mounts = container.get("volumeMounts", [])
        for place, mount in enumerate(mounts):
            if mount["name"] not in volumes:
                yield f'{path}.volumeMounts[{place}].name: Not found: "{mount["name"]}"'
        yield from _repeated([mount["mountPath"] for mount in mounts], f"{path}.volumeMounts")
        yield from _resource_problems(container.get("resources", {}), f"{path}.resources")
        if not container.get("image"):
            yield f"{path}.image: Required value"


def _repeated(names: list[str], path: str) -> Iterator[str]:
    for name, count in Counter(names).items():
        if count > 1:
            yield f'{path}: Duplicate value: "{name}"'


def _resource_problems(resources: Object, path: str) -> Iterator[str]:
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    for name, requested in requests.items():
        if name in limits and amount(requested) > amount(limits[name]):
            rule = f"must be less than or equal to {name} limit of {limits[name]}"
            yield f'{path}.requests: Invalid value: "{requested}": {rule}'
    for name in {*requests, *limits}:
        if "/" in name and requests.get(name, limits.get(name)) != limits.get(name):
            yield f"{path}.limits: Required value: Limit must be set for non overcommitable resource {name}"

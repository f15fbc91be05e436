"""Label and field selectors."""

import re
from collections.abc import Mapping
from typing import Any

from tests.cluster.status import ApiError, Object

_SET_BASED = re.compile(r"^(?P<key>\S+)\s+(?P<operator>in|notin)\s+\((?P<values>[^)]*)\)$")
_EQUALITY = re.compile(r"^(?P<key>[^=!\s]+)\s*(?P<operator>==|=|!=)\s*(?P<value>.*)$")


def _requirements(selector: str) -> list[str]:
    """Split at commas that are not inside parentheses."""
    return [part.strip() for part in re.split(r",(?![^(]*\))", selector) if part.strip()]


def matches_labels(selector: str, labels: Mapping[str, str]) -> bool:
    """Whether labels satisfy a selector.

    >>> matches_labels("app=a,role in (x, y),!gone", {"app": "a", "role": "y"})
    True
    >>> matches_labels("app!=a", {"app": "a"})
    False
    """
    return all(_matches_requirement(requirement, labels) for requirement in _requirements(selector))


def _matches_requirement(requirement: str, labels: Mapping[str, str]) -> bool:
    if match := _SET_BASED.match(requirement):
        values = {value.strip() for value in match["values"].split(",")}
        return (labels.get(match["key"]) in values) == (match["operator"] == "in")
    if match := _EQUALITY.match(requirement):
        return (labels.get(match["key"]) == match["value"].strip()) == (match["operator"] != "!=")
    if requirement.startswith("!"):
        return requirement[1:].strip() not in labels
    return requirement in labels


def matches_fields(selector: str, item: Object) -> bool:
    """Whether an object satisfies a field selector.

    >>> matches_fields("metadata.name=x,status.phase!=Running", {"metadata": {"name": "x"}})
    True
    """
    for requirement in _requirements(selector):
        match = _EQUALITY.match(requirement)
        if not match:
            raise ApiError(400, f'invalid field selector "{selector}": can\'t understand "{requirement}"')
        found = str(field_at(item, match["key"]) or "")
        if (found == match["value"].strip()) != (match["operator"] != "!="):
            return False
    return True


def field_at(item: Any, path: str) -> Any:
    """The value at a dotted path, or None."""
    for name in path.split("."):
        item = item.get(name) if isinstance(item, dict) else None
    return item

"""What stands between a valid request and the store: permissions, injected failures, quotas."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from tests.cluster.kinds import POD, QUOTA, Kind
from tests.cluster.quantities import amount
from tests.cluster.status import REASONS, ApiError, Object
from tests.cluster.store import Store

USER = "tester"


@dataclass
class Failure:
    """An answer that stands ready for the next `times` requests of a kind."""

    verb: str
    plural: str
    code: int
    message: str
    times: int


@dataclass
class Gate:
    """Permissions and injected failures. `*` stands for any verb or resource."""

    forbidden: set[tuple[str, str]] = field(default_factory=set)
    failures: list[Failure] = field(default_factory=list)
    meetings: dict[tuple[str, str], asyncio.Barrier] = field(default_factory=dict)

    def allows(self, verb: str, plural: str) -> bool:
        """Whether the user may do that; a subresource is named like `pods/log`."""
        return not {(verb, plural), ("*", plural), (verb, "*"), ("*", "*")} & self.forbidden

    def check(self, verb: str, kind: Kind, namespace: str, subresource: str = "") -> None:
        """Let a request pass.

        Raises:
            ApiError: 403 where it is forbidden, or the failure that was ordered.
        """
        plural = f"{kind.plural}/{subresource}" if subresource else kind.plural
        if not self.allows(verb, plural):
            where = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
            message = f'{kind.resource} is forbidden: User "{USER}" cannot {verb} resource "{plural}" in API group '
            raise ApiError(403, f'{message}"{kind.group}"{where}', details={"kind": kind.plural})
        for failure in self.failures:
            if failure.times > 0 and failure.verb in ("*", verb) and failure.plural in ("*", plural):
                failure.times -= 1
                raise ApiError(failure.code, failure.message, reason=REASONS.get(failure.code, ""))

    async def meet(self, verb: str, kind: Kind) -> None:
        """Hold the request back until as many of its kind have come as were told to."""
        if meeting := self.meetings.get((verb, kind.plural)):
            await meeting.wait()


def requested_by(pod: Object) -> dict[str, Decimal]:
    """What a pod counts for in a quota.

    >>> requested_by({"spec": {"containers": [{"resources": {"limits": {"cpu": "500m"}}}]}})
    {'pods': Decimal('1'), 'limits.cpu': Decimal('0.500'), 'requests.cpu': Decimal('0.500')}
    """
    total: dict[str, Decimal] = {"pods": Decimal(1)}
    for container in pod["spec"]["containers"]:
        resources = container.get("resources", {})
        limits = resources.get("limits", {})
        for prefix, amounts in (("limits", limits), ("requests", {**limits, **resources.get("requests", {})})):
            for name, text in amounts.items():
                total[f"{prefix}.{name}"] = total.get(f"{prefix}.{name}", Decimal(0)) + amount(text)
    return total


def used_in(pods: Iterable[Object]) -> dict[str, Decimal]:
    """The sum of what all pods that are not finished count for."""
    total: dict[str, Decimal] = {}
    for pod in pods:
        if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            for name, requested in requested_by(pod).items():
                total[name] = total.get(name, Decimal(0)) + requested
    return total


def check_quota(store: Store, kind: Kind, item: Object) -> None:
    """Refuse a pod that no ResourceQuota of its namespace has room for.

    Raises:
        ApiError: 403, in the words of the real admission plug-in.
    """
    if kind != POD:
        return
    namespace, name = item["metadata"]["namespace"], item["metadata"]["name"]
    wanted, used = requested_by(item), used_in(store.select(POD, namespace))
    for quota in store.select(QUOTA, namespace):
        hard = quota["spec"]["hard"]
        exceeded = [
            limit
            for limit in hard
            if wanted.get(limit) and used.get(limit, Decimal(0)) + wanted[limit] > amount(hard[limit])
        ]
        if exceeded:
            parts = [
                f"requested: {','.join(f'{limit}={wanted[limit]:f}' for limit in exceeded)}",
                f"used: {','.join(f'{limit}={used.get(limit, Decimal(0)):f}' for limit in exceeded)}",
                f"limited: {','.join(f'{limit}={hard[limit]}' for limit in exceeded)}",
            ]
            quota_name = quota["metadata"]["name"]
            message = f'pods "{name}" is forbidden: exceeded quota: {quota_name}, {", ".join(parts)}'
            raise ApiError(403, message, details={"name": name, "kind": "pods"})

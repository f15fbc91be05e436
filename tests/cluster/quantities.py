"""Amounts as Kubernetes writes them."""

from decimal import Decimal

from kubernetes.utils.quantity import parse_quantity


def amount(text: str | int) -> Decimal:
    """
    >>> amount("500m"), amount("1Gi"), amount(2)
    (Decimal('0.500'), Decimal('1073741824'), Decimal('2'))
    """
    return Decimal(parse_quantity(text))  # type: ignore[no-untyped-call]  # the client has no types

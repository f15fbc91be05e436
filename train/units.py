"""Numbers as people say them, for terminals and pages. No torch here."""

import datetime


def human_seconds(seconds: float) -> str:
    """A duration as people say it.

    >>> human_seconds(42), human_seconds(250), human_seconds(7300)
    ('42 s', '4 min 10 s', '2 h 1 min')
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def human_bytes(num_bytes: float) -> str:
    """An amount of memory, with three digits.

    >>> human_bytes(1_500_000), human_bytes(3 * 2**30)
    ('1.43 MiB', '3.00 GiB')
    """
    unit, size = next(((name, size) for name, size in _BYTES if num_bytes >= size), _BYTES[-1])
    return f"{num_bytes / size:.3g} {unit}" if num_bytes >= 100 * size else f"{num_bytes / size:.2f} {unit}"


_BYTES = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


def utc_now() -> str:
    """Now, to the second, as ISO 8601 in UTC: what a program writes and reads back."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def seconds_since(moment: str) -> float:
    """Seconds since a `utc_now()` of earlier."""
    return (datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(moment)).total_seconds()

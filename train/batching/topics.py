"""Topics of a data set as few groups: losses and counts by topic must stay readable, and cheap to compute."""

from collections import Counter
from collections.abc import Sequence

MOST_TOPICS = 12
NO_TOPIC = "no topic"
OTHER_TOPICS = "other topics"


def topic_groups(topics: Sequence[str | None], most: int = MOST_TOPICS) -> list[str]:
    """Return each row's group: its topic, or `OTHER_TOPICS` where there are more than `most` and it is a rarer one.

    >>> topic_groups(["knots", None, "knots", "fire", "water", "water"], most=2)
    ['knots', 'other topics', 'knots', 'other topics', 'water', 'water']
    """
    named = [topic or NO_TOPIC for topic in topics]
    # Ties go by name, so that the groups do not depend on the order of the rows.
    common = sorted(Counter(named).items(), key=lambda item: (-item[1], item[0]))[:most]
    kept = {name for name, _ in common}
    return [name if name in kept else OTHER_TOPICS for name in named]


def rows_by_topic(train: Sequence[str | None], validation: Sequence[str | None]) -> dict[str, dict[str, int]]:
    """Count the rows each topic has on either side.

    >>> rows_by_topic(["knots", "knots", "fire"], ["knots"])
    {'fire': {'train': 1, 'validation': 0}, 'knots': {'train': 2, 'validation': 1}}
    """
    groups = topic_groups([*train, *validation])
    counts = {"train": Counter(groups[: len(train)]), "validation": Counter(groups[len(train) :])}
    return {topic: {side: count[topic] for side, count in counts.items()} for topic in sorted(set(groups))}

from train.batching.topics import MOST_TOPICS, NO_TOPIC, OTHER_TOPICS, rows_by_topic, topic_groups


def test_of_equally_common_topics_the_first_by_name_is_kept():
    assert topic_groups(["b", "a"], most=1) == [OTHER_TOPICS, "a"]


def test_many_topics_become_few_groups_and_no_row_is_lost():
    topics = [f"topic {number % 40}" for number in range(400)] + [None] * 50
    counts = rows_by_topic(topics[:300], topics[300:])
    assert len(counts) == MOST_TOPICS + 1
    assert counts[NO_TOPIC] == {"train": 0, "validation": 50}
    assert sum(side["train"] for side in counts.values()) == 300
    assert sum(side["validation"] for side in counts.values()) == 150

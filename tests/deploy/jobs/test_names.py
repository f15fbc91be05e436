"""Labels that Kubernetes takes, and those that it would refuse."""

import pytest

from deploy.jobs.names import DNS_1035, label_problems, labels
from deploy.profile import plan_deployment, profile_names


@pytest.mark.parametrize("name", profile_names())
def test_our_own_labels_are_taken(name):
    ours = labels(plan_deployment(name).profile, "training")
    assert len(ours) == 5
    assert list(label_problems(ours)) == []


@pytest.mark.parametrize("value", ["a b", "-a", "a" * 64, 4, None])
def test_what_is_no_label_value_is_named(value):
    assert list(label_problems({"x": value})) == [f"label x={value!r} is not a label value (63 of A-Z a-z 0-9 - _ .)"]


def test_names_by_dns_1035():
    names = ("a", "tune-4", "4ranks", "Tune", "a-", "")
    assert [name for name in names if DNS_1035.fullmatch(name)] == ["a", "tune-4"]

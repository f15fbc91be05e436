"""Options that evaluate and compare share."""

import pytest

from data.schema import DataError
from inference.judging.options import Followed, chosen_metrics, chosen_rules
from inference.judging.safety import read_rules
from train.failure import ConfigError
from train.generation.scores import METRICS


def test_rules_are_ones_own_the_projects_or_none(tmp_path):
    own = tmp_path / "rules.yaml"
    own.write_text("- {id: a, question: q, why: w, must_say: [x]}\n")
    assert chosen_rules(False, None) == []
    assert chosen_rules(True, None) == read_rules()
    assert [rule.id for rule in chosen_rules(False, own)] == [rule.id for rule in chosen_rules(True, own)] == ["a"]
    with pytest.raises(DataError):
        chosen_rules(False, tmp_path / "none.yaml")


def test_own_metrics_join_the_built_in_ones():
    assert chosen_metrics(None) == list(METRICS)
    with pytest.raises(ConfigError, match=r"package\.module:function"):
        chosen_metrics(["nonsense"])


def test_a_stage_begins_where_the_name_changes():
    told = []

    class Report:
        def stage(self, title, total):
            told.append((title, total))

        def advance(self, position):
            told.append(position)

    follow = Followed(Report())
    for what, done, total in (("loss", 0, 4), ("loss", 4, 4), ("answers", 1, 2)):
        follow(what, done, total)
    assert told == [("loss", 4), 0, 4, ("answers", 2), 1]

"""Damage is told by name; a broken model that was really published is caught in test_compare.py."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from inference.models import soundness
from inference.models.published import PublishedModel, named_base
from inference.models.soundness import check_original, check_weights_applied
from train.config.run_config import RunConfig
from train.failure import ConfigError, ModelError

PUBLISHED = PublishedModel(Path("outputs/mine/best_model"), {"identity": {"model": "aaaa"}}, RunConfig())
FINGERPRINTS = {"embedded": "aaaa1111", "someone/other": "bbbb2222", str(PUBLISHED.folder): "cccc3333"}


@pytest.fixture(autouse=True)
def fingerprints(monkeypatch):
    monkeypatch.setattr(soundness, "model_fingerprint", lambda base: FINGERPRINTS[base.model.name])


def test_the_recorded_base_is_known_by_the_beginning_of_its_fingerprint():
    assert check_original(PUBLISHED, named_base("embedded"), any_base=False)


def test_the_tuned_model_may_be_compared_with_itself():
    assert not check_original(PUBLISHED, named_base(str(PUBLISHED.folder)), any_base=False)


def test_another_base_needs_to_be_asked_for():
    with pytest.raises(ConfigError, match=r"weights are bbbb2222, the run recorded aaaa\. .*--any-base"):
        check_original(PUBLISHED, named_base("someone/other"), any_base=False)
    assert not check_original(PUBLISHED, named_base("someone/other"), any_base=True)


def test_weights_of_the_base_were_not_tuned():
    tuned = SimpleNamespace(weights_sha256="0123456789abcdefXYZ")
    check_weights_applied(PUBLISHED, "another", tuned)
    with pytest.raises(ModelError, match=r"trained weights not applied: .*\(0123456789abcdef\)"):
        check_weights_applied(PUBLISHED, "0123456789abcdefXYZ", tuned)

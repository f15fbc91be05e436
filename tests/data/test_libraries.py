import os

import pytest

from data.libraries import prepare_environment, quieten_libraries


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Neither variable is set, and both are as before afterwards."""
    for name in ("HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "before")
        monkeypatch.delenv(name)


def test_offline_is_switched_on_and_what_the_user_set_is_kept(monkeypatch):
    prepare_environment(offline=False)
    assert "HF_HUB_OFFLINE" not in os.environ
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    prepare_environment(offline=True)
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


def test_errors_show_always_warnings_where_wanted():
    from transformers.utils import logging

    before = logging.get_verbosity()
    quieten_libraries(warnings=True)
    assert logging.get_verbosity() == logging.WARNING
    quieten_libraries(warnings=False)
    assert logging.get_verbosity() == logging.ERROR
    assert not logging.is_progress_bar_enabled()
    logging.set_verbosity(before)
    logging.enable_progress_bar()

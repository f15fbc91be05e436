"""A name is a run, a published model, or a base; what is loaded follows from it."""

import pytest

from inference.models.published import named_base
from inference.models.source import Source, source_of
from train.failure import ModelError


def test_a_base_is_taken_by_name():
    source = source_of("embedded", verify=False)
    assert source.published is None
    assert source.base.model.name == "embedded"


def test_a_folder_that_should_hold_a_run_is_never_taken_for_a_base(tmp_path):
    with pytest.raises(ModelError, match="no run has ended well here"):
        source_of(str(tmp_path), verify=False)


def test_only_a_base_from_the_hub_may_ask_the_network():
    assert Source(None, named_base("embedded")).is_offline
    assert not Source(None, named_base("HuggingFaceTB/SmolLM3-3B")).is_offline

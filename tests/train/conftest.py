"""A full volume is a small tmpfs, mounted for the test; that takes root, and the test is skipped without."""

import pytest

from tests.small_volume import small_volume


@pytest.fixture
def small(tmp_path):
    with small_volume(tmp_path / "small", megabytes=4) as folder:
        yield folder

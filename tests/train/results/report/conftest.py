import shutil

import pytest

from train.run_folder.run_folder import RunFolder


@pytest.fixture
def finished(smoke_run, tmp_path):
    """A copy of what the page is made from."""
    for name in (
        "config.resolved.json",
        "training_history.json",
        "training_summary.json",
        "starts.json",
        "status.json",
    ):
        shutil.copy(smoke_run / name, tmp_path)
    shutil.copytree(smoke_run / "demo_outputs", tmp_path / "demo_outputs")
    return RunFolder(tmp_path)

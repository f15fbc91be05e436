"""A run folder with checkpoints of one byte, for tests of what counts and what is taken up."""

from data.files import write_json
from train.fault_tolerance.checkpoints import commit
from train.run_folder.run_folder import RunFolder

IDENTITY = {"optim.epochs": 2, "data": "abc"}


def begun_run(root):
    folder = RunFolder(root)
    write_json(folder.config, {"identity": IDENTITY})
    return folder


def checkpoint(folder, step, *, committed=True):
    path = folder.checkpoints / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "weights").write_text("w")
    if committed:
        commit(path)
    return path

"""Which code made a run: the git commit, and the image where it ran in one."""

import os
import subprocess

from train.config.run_config import REPOSITORY

GIT_SECONDS = 5


def provenance() -> dict[str, str | None]:
    """Return `git_commit` (`-dirty` appended where the checkout has changes) and `image`; None is what cannot be known.

    The image has no checkout: there FIELDCRAFT_REVISION and FIELDCRAFT_IMAGE say it.
    """
    return {
        "git_commit": os.environ.get("FIELDCRAFT_REVISION") or _described_checkout(),
        "image": os.environ.get("FIELDCRAFT_IMAGE"),
    }


def _described_checkout() -> str | None:
    if not (REPOSITORY / ".git").exists():
        return None
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # looking must not write the index
    try:
        described = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None

"""What the libraries below are told: before they are imported by the environment, afterwards by a call."""

import os


def prepare_environment(*, offline: bool) -> None:
    """Set what libraries read when they are imported, so it is called before any of them is.

    With `offline` the hub is not asked; without, what the user's HF_HUB_OFFLINE says stands.
    """
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else every fork is answered by a warning


def quieten_libraries(*, warnings: bool) -> None:
    """Turn off the progress bars of transformers, and unless told otherwise its warnings; errors always show."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_warning() if warnings else logging.set_verbosity_error()

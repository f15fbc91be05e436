"""`report.html` from a run folder.

python -m train report outputs/laptop
"""

import sys
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from data.files import write_text
from train.results.report.facts import page_facts
from train.results.run_files import RunFiles
from train.run_folder.run_folder import RunFolder
from train.units import utc_now


def render_report(files: RunFiles) -> str:
    """Return the page; everything in it that the run said is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(made_at=utc_now(), **page_facts(files))


def write_report(folder: RunFolder) -> Path:
    """Make `report.html`, of a finished or an unfinished run (raises ConfigError where there is none)."""
    write_text(folder.report, render_report(RunFiles.read(folder)))
    return folder.report


def write_report_or_warn(folder: RunFolder) -> None:
    """Make the report at the end of a run: one that cannot be made costs the report, not the run."""
    try:
        write_report(folder)
    except Exception as error:  # the model is published; nothing about its picture may change that
        print(f"warning: no report was made: {type(error).__name__}: {error}", file=sys.stderr, flush=True)

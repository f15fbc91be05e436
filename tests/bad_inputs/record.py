"""Write docs/bad-inputs.md, the table that tests/bad_inputs/test_bad_inputs.py compares with.

python -m tests.bad_inputs.record
"""

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.bad_inputs.cases import Outcome, outcomes
from tests.forked_ranks import ROOT

TABLE = ROOT / "docs" / "bad-inputs.md"
HEAD = """# Bad inputs

What is wrong, what the program then says on its last line, and its exit code. Every line is of a real run:
`python -m tests.bad_inputs.record` writes this file, `tests/bad_inputs/test_bad_inputs.py` compares with it. `DIR` is
a folder of the test, sizes in bytes are left out as `N`. The exit codes are those of the README: 1-127 are permanent,
128 and above worth another try. There was no network.
"""
ROW = re.compile(r"^\| (?P<what>[^|]+) \| (?P<code>\d+) \| `(?P<command>.+?)` \| (?P<sentence>.+) \|$", re.MULTILINE)


def row(outcome: Outcome) -> str:
    case, said = outcome.case, outcome.sentence.replace("|", r"\|")
    settings = "".join(f"{name}={value} " for name, value in case.environment.items())
    command = f"{settings}{case.command}".replace("{dir}", "DIR").replace("|", r"\|")
    return f"| {case.what} | {outcome.finished.code} | `{command}` | {said} |"


def render(found: Iterable[Outcome]) -> str:
    lines, area = [HEAD], ""
    for outcome in found:
        if outcome.case.area != area:
            area = outcome.case.area
            lines.append(f"## {area.capitalize()}\n\n| input | exit | command, after `python -m` | last line |")
            lines.append("|---|---|---|---|")
        lines.append(row(outcome))
    return re.sub(r"\n## ", "\n\n## ", "\n".join(lines)).replace("\n\n\n", "\n\n") + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        TABLE.write_text(render(outcomes(Path(folder))), encoding="utf-8")


if __name__ == "__main__":
    main()

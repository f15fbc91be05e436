"""Whatever is wrong, it is said in one line with the right exit code, and docs/bad-inputs.md has that very line."""

from pathlib import Path

import pytest

from tests.bad_inputs.cases import CASES, outcomes
from tests.bad_inputs.record import TABLE, row

pytestmark = pytest.mark.timeout(900)  # all cases run in the first test's fixture
RECORD = "python -m tests.bad_inputs.record"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory):
    found = list(outcomes(tmp_path_factory.mktemp("inputs")))
    assert len(found) >= 40
    return found


def test_every_bad_input_has_its_exit_code_and_no_traceback(found):
    wrong = [
        f"{one.case.what}: {one.finished.code}, not {one.case.code}\n{one.finished.stderr[-2000:]}"
        for one in found
        if one.finished.code != one.case.code or "Traceback" in one.finished.stderr or not one.sentence
    ]
    assert not wrong, "\n".join(wrong)


def test_the_table_in_the_docs_is_true(found):
    recorded = set(TABLE.read_text(encoding="utf-8").splitlines())
    missing = [row(one) for one in found if row(one) not in recorded]
    assert not missing, f"run: {RECORD}\n" + "\n".join(missing)


def test_the_table_has_every_case():
    text = TABLE.read_text(encoding="utf-8")
    assert [case.what for case in CASES if f"| {case.what} | {case.code} |" not in text] == []
    assert len({case.what for case in CASES}) == len(CASES)


def test_what_is_said_does_not_show_this_machine(found):
    assert [one.sentence for one in found if str(Path.cwd()) in one.sentence] == []

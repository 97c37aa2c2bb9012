# SPDX-License-Identifier: MIT
"""Programs from elsewhere under `vfioemu run`; see cases.py."""

from pathlib import Path

import pytest

from tests.system.programs.cases import Case, Kind, cases
from tests.system.programs.conftest import REPORT
from tests.system.programs.report import Row
from tests.system.programs.runner import MissingError, check_place, judge


@pytest.fixture(scope="session", autouse=True)
def place() -> None:
    """Programs to run."""
    try:
        check_place()
    except MissingError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.name)
def test_program(case: Case, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A program does what it must."""
    verdict = judge(case, tmp_path / "home")

    request.config.stash[REPORT].rows.append(Row(case, verdict))
    assert verdict.right, f"{verdict.text}\n{verdict.details}"


class TestControls:
    """A comparison that cannot fail says nothing."""

    def test_another_exit_status_is_seen(self, tmp_path: Path) -> None:
        case = Case(name="", command='echo x; test -z "$VFIOEMU_SOCKET"')
        assert not judge(case, tmp_path / "home").right

    def test_other_output_is_seen(self, tmp_path: Path) -> None:
        case = Case(name="", command="echo $LD_PRELOAD x")
        verdict = judge(case, tmp_path / "home")
        assert (verdict.right, verdict.text) == (False, "other output")

    def test_a_program_that_says_nothing_is_no_success(self, tmp_path: Path) -> None:
        assert not judge(Case(name="", command="true"), tmp_path / "home").right

    def test_a_program_that_is_not_refused_is_seen(self, tmp_path: Path) -> None:
        case = Case(name="", kind=Kind.REFUSED, status=126, command="true", says=("statically",))
        assert not judge(case, tmp_path / "home").right

# SPDX-License-Identifier: MIT
"""The suite of programs from elsewhere: left out by all but `make test-programs`, and its report."""

from pathlib import Path

import pytest

from tests.system.programs.report import Report, read_results
from tests.system.programs.runner import versions

REPORT = pytest.StashKey[Report]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the report goes."""
    parser.addoption("--programs-report", type=Path, help="write what the programs did to this file")
    parser.addoption("--programs-results", type=Path, help="write the results alone, as JSON, to this file")
    parser.addoption(
        "--programs-before", type=Path, help="results of an earlier run, for a column of the report"
    )


def pytest_configure(config: pytest.Config) -> None:
    """One report for the run."""
    before: Path | None = config.getoption("--programs-before", None)
    config.stash[REPORT] = Report(read_results(before) if before else {})


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them need programs that are not of the project."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.programs)
            item.add_marker(pytest.mark.timeout(700))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The table; to the files as well."""
    report = config.stash[REPORT]
    if not report.rows:
        return
    terminalreporter.section("programs")
    terminalreporter.write(report.table())
    for option, text in (
        ("--programs-report", report.page(versions())),
        ("--programs-results", report.results()),
    ):
        path: Path | None = config.getoption(option, None)
        if path is not None:
            path.write_text(text, encoding="utf-8")

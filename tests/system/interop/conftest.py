# SPDX-License-Identifier: MIT
"""The interop suite's fixtures: which QEMU, which guest, and the report.

What a test finds out goes to the report, which is written to the file of `--interop-report` at the end (docs/interop.md).
"""

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.system.interop.guestimage import GuestImage, guest_image
from tests.system.interop.programs import VERSIONS, MissingError, Qemu, qemu
from tests.system.interop.report import Entry, Report

_TIMEOUT = 1800
_REPORT = pytest.StashKey[Report]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the report goes."""
    parser.addoption("--interop-report", type=Path, help="write what the interop suite found to this file")


def pytest_configure(config: pytest.Config) -> None:
    """One report for the run."""
    config.stash[_REPORT] = Report()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them take long, and need programs that are not of the project."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.interop)
            item.add_marker(pytest.mark.timeout(_TIMEOUT))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The table; to the file as well, if everything ran."""
    report = config.stash[_REPORT]
    if not report.entries:
        return
    terminalreporter.section("interop")
    terminalreporter.write(report.table())
    path: Path | None = config.getoption("--interop-report", None)
    if path is not None:
        path.write_text(report.page(), encoding="utf-8")


@pytest.fixture(params=VERSIONS)
def any_qemu(request: pytest.FixtureRequest) -> Qemu:
    """Each QEMU in turn."""
    return _qemu(request.param)


@pytest.fixture(params=VERSIONS[1:])
def v2_qemu(request: pytest.FixtureRequest) -> Qemu:
    """Each QEMU that knows migration v2."""
    return _qemu(request.param)


@pytest.fixture
def v1_qemu() -> Qemu:
    """The QEMU that knows migration v1."""
    return _qemu(VERSIONS[0])


def _qemu(generation: str) -> Qemu:
    try:
        return qemu(generation)
    except MissingError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def guest() -> GuestImage:
    """The guest, made if need be."""
    try:
        return guest_image()
    except MissingError as missing:
        pytest.skip(str(missing))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell the report how a test ended."""
    outcome = yield
    entry = item.funcargs.get("entry") if isinstance(item, pytest.Function) else None
    if isinstance(entry, Entry) and outcome.when == "call":
        entry.passed = outcome.passed
        entry.seconds = outcome.duration
    return outcome


@pytest.fixture
def entry(request: pytest.FixtureRequest, guest: GuestImage) -> Entry:
    """A row of the report, for the test to fill in; the test's docstring is its title."""
    names = [name for name in request.fixturenames if name.endswith("_qemu")]
    found: Qemu | None = request.getfixturevalue(names[0]) if names else None
    title = (request.function.__doc__ or request.node.name).partition("\n")[0].rstrip(".")
    entry = Entry(found, guest, title)
    request.config.stash[_REPORT].add(entry)
    return entry

# SPDX-License-Identifier: MIT
"""The pytest plugin of vfioemu: fixtures with emulated kernels of one's own (docs/testing.md).

It is loaded by every pytest of an environment in which vfioemu is installed. So it imports nothing but pytest before
one of its fixtures is used.
"""

import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from vfioemu.testing.instance import Instance
    from vfioemu.testing.pair import TrioKernels

_MARKER: Final = 'vfioemu_requires(*programs): skip, with the reason, without these programs (or "preload")'
_LAST: Final = 40
_KEPT: Final = "vfioemu_kept"
_QEMU: Final = "qemu-system-x86_64"
_INSTANCES: Final = pytest.StashKey[list["Instance"]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options."""
    group = parser.getgroup("vfioemu")
    group.addoption(
        "--vfioemu-keep",
        action="store_true",
        help="Leave the folders of instances, with log and trace, and say where they are.",
    )
    group.addoption(
        "--vfioemu-trace",
        metavar="FILE",
        help="Write the calls of all instances to this file, as JSON lines.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make our marker known, and empty the file to which all instances will add their calls."""
    config.addinivalue_line("markers", _MARKER)
    file = _trace_file(config)
    if file is not None and not hasattr(
        config, "workerinput"
    ):  # a worker of pytest-xdist: others write there
        try:
            file.write_bytes(b"")
        except OSError as error:
            raise pytest.UsageError(f"--vfioemu-trace={file}: {error.strerror}") from None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what cannot run here."""
    for marker in item.iter_markers("vfioemu_requires"):
        for name in marker.args:
            if why := _missing(str(name)):
                pytest.skip(why)


@pytest.hookimpl(hookwrapper=True)  # older pytests, whose tests are none of ours, know no other kind
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Show the last calls of a test that has failed."""
    outcome = yield
    report: pytest.TestReport = outcome.get_result()
    if report.when == "call" and report.failed:
        for instance in item.stash.get(_INSTANCES, []):
            if text := instance.trace.text(_LAST):
                report.sections.append(("vfioemu: the last calls", text))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say where folders are that were to be kept."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == _KEPT and report.when == "call":
                    terminalreporter.write_line(f"vfioemu: {report.nodeid}: log and trace are in {value}")


@pytest.fixture
def vfioemu(request: pytest.FixtureRequest) -> Iterator["Instance"]:
    """Give a test a private vfioemu: `.device()`, `.run()`, `.trace`; it ends with the test, always."""
    with _instance(request.config) as instance:
        request.node.stash.setdefault(_INSTANCES, []).append(instance)
        if instance.kept is not None:
            request.node.user_properties.append((_KEPT, str(instance.kept)))
        yield instance


@pytest.fixture(scope="session")
def vfioemu_session(request: pytest.FixtureRequest) -> Iterator["Instance"]:
    """One vfioemu for all tests: add its devices in a session fixture of your own, before the first program runs."""
    with _instance(request.config) as instance:
        yield instance


@pytest.fixture
def vfioemu_trio() -> "TrioKernels":
    """Kernels in this process for tests with trio: `.machine()`, `.migration_pair()`; deterministic, no sockets."""
    from vfioemu.testing.pair import TrioKernels

    return TrioKernels()


@pytest.fixture
def vfioemu_qemu(vfioemu: "Instance") -> Any:
    """QEMU on a private vfioemu: `(arguments) -> CompletedProcess`; skips where there is no QEMU."""
    if why := _missing(_QEMU):
        pytest.skip(why)

    def qemu(arguments: list[str], **options: Any) -> Any:
        return vfioemu.run([_QEMU, *arguments], **options)

    return qemu


def _instance(config: pytest.Config) -> "Instance":
    from vfioemu.testing.instance import Instance

    if why := _missing("preload"):
        pytest.skip(why)
    keep: bool = config.getoption("--vfioemu-keep")
    return Instance(trace_file=_trace_file(config), keep=keep)


def _trace_file(config: pytest.Config) -> Path | None:
    trace: str | None = config.getoption("--vfioemu-trace")
    return None if trace is None else Path(trace).resolve()


def _missing(name: str) -> str:
    """Why something cannot be had here; "" if it can."""
    if name == "preload":
        from vfioemu import preload

        try:
            preload.library()
        except FileNotFoundError as error:
            return f"vfioemu has no preload library: {error}"
        return ""
    return "" if shutil.which(name) else f"{name} is not installed"

# SPDX-License-Identifier: MIT
"""What tests may be skipped for. With `--defended-skips`, as .ci/run has it, any other reason fails the session.

What can be installed is no reason there: .ci/install gets it. tests/static/test_skips.py holds the tests and that script to
these tables, so whoever writes a test that skips says here why that is right, or how a machine gets what the test wants.
"""

import pytest

DEFENDED = {
    "only root can": "root-only: .ci/run runs all tests as root, and those of `make test` as an ordinary user as well",
    "needs root": "root-only, as above",
    "no Python here has what it takes for another user": "the checkout is where only root can go; .ci/as-user has one of its own",
    "has no Python that can import vfioemu": "as above",
    "is not allowed here": "the system makes no such namespaces for us: a setting of the kernel or of a container",
    "nothing can be mounted here": "as above",
    "no such namespace can be made here": "as above",
    "no PID namespace can be made here": "as above",
    "the system makes no user namespaces for us": "as above",
    "there is no /dev/kvm here that we may use": "hardware, or the right to use it",
    "the numbers of system calls of": "another architecture than x86-64 and AArch64",
    "this system's dynamic linker is not glibc's": "another libc",
    "the table was recorded on a little-endian machine": "another architecture",
    "there is no ThreadSanitizer that runs here": "with more random bits in addresses than this compiler's knows: a setting of the kernel",
    "nothing is setuid on this file system": "the file system is mounted nosuid",
    "no userfaultfd that the kernel waits for": "vm.unprivileged_userfaultfd is 0 and we are no root, or a kernel without",
    "no memfd_secret()": "a kernel without, or secretmem.enable=0",
    "there are huge pages": "the test is about a pool without: a setting of the kernel",
    "there may be huge pages": "as above",
    "no local file system there": "/var/tmp is on NFS or FUSE",
    "there are no seccomp filters": "a kernel without, or a container that forbids them",
}
"""Parts of reasons, and why nothing can be installed against them."""
INSTALLED = {
    "there is no C compiler": "cc",
    "this compiler has no -fsanitize=": "gcc",
    "there is no static libc": "static-libc",
    "there is no gcc": "gcc",
    "there is no clang": "clang",
    "there is no rustc": "rustc",
    "there is no perl": "perl",
    "there is no awk": "awk",
    "there is no dash": "dash",
    "there is no setpriv": "setpriv",
    "there is no sudo": "sudo",
    "sudo does nothing for us here": "sudo",
    "there is no user libvirt-qemu": "libvirt-qemu",
    "not installed: lspci": "lspci",
    "not installed: setpci": "setpci",
    "not installed: udevadm": "udevadm",
    "not installed: driverctl": "driverctl",
    "not installed: dpdk-devbind.py": "dpdk-devbind.py",
    "not installed: ip": "ip",
    "not installed: mdevctl": "mdevctl",
    "not installed: libvirtd": "libvirtd",
    "not installed: virsh": "virsh",
}
"""Parts of reasons, and the line of .ci/install that makes them untrue."""
BUILT = {
    "the preload library is not built": "make build",
    "mypy is not installed": "make build",
    "`make test` builds the fuzz targets before this": "make test",
    "could not import 'atheris'": "make fuzz",
    "atheris is not installed": "make fuzz",
    "there is no QEMU: tests/system/interop/fetch": "tests/system/interop/fetch",
    "QEMU 7.2 is not here": "tests/system/interop/fetch",
}
"""Parts of reasons, and the command that makes them untrue; .ci/run has run it."""


def pytest_addoption(parser):
    parser.addoption(
        "--defended-skips",
        action="store_true",
        help="fail if a test is skipped for a reason not in tests/skips.py",
    )


def undefended(reports):
    """Those of skipped tests that were skipped for what could have been otherwise, and the reasons: a line each."""
    lines = []
    for report in reports:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(part in reason for part in DEFENDED):
            lines.append(f"{report.nodeid}: {reason}")
    return lines


class Guard:
    """The part of `--defended-skips` that looks at a session; not for workers of pytest-xdist, who have a part of it."""

    def _found(self, config):
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or not config.getoption("--defended-skips"):
            return []
        return undefended(reporter.stats.get("skipped", []))

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session):
        result = yield
        if session.exitstatus == pytest.ExitCode.OK and self._found(session.config):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return result

    def pytest_terminal_summary(self, terminalreporter, config):
        for line in self._found(config):
            terminalreporter.write_line(f"FAILED: no reason to skip (tests/skips.py): {line}", red=True)

# SPDX-License-Identifier: MIT
"""Pointers to nothing: the library gives what the kernel and libc give for them, never a signal of its own."""

import contextlib
import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.system.preload.conftest import SHIM, Programs
from tests.system.preload.test_symbols import allowed
from tests.system.run.helpers import PATIENCE, preloaded
from vfioemu.testing.daemon import daemon_process

GROUP, BDF = "7", "0000:0a:00.0"
MACHINE = f"""
[[group]]
number = {GROUP}
[group.iommu]
[[group.device]]
symbol = "card"
name = "{BDF}"
model = "e1000e"
"""
WITHOUT_POINTERS = {
    "close", "__close", "dup", "dup2", "__dup2", "dup3", "close_range", "closefrom", "unshare", "fchdir", "fdopendir",
    "pidfd_getfd", "get_current_dir_name", "fchmod", "fchown", "ftruncate", "ftruncate64",
    "fallocate", "fallocate64", "shutdown", "listen",
}  # fmt: skip
LINE = re.compile(r"(\w+) (\d+) \((.*)\) (.+?): (.*)")


@pytest.fixture(scope="module")
def daemon():
    with daemon_process(MACHINE) as running:
        yield running
        assert running.ask("stats")["internal_errors"] == 0, running.log()


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return Programs(tmp_path_factory.mktemp("addresses"))("addresses")


@pytest.fixture
def call(daemon, program, tmp_path):
    """Run it, with the library or plainly: its lines."""

    def call(*arguments, plainly=False, **more):
        environment = os.environ if plainly else {**os.environ, **preloaded(daemon.directory), **more}
        done = subprocess.run(
            [program, GROUP, BDF, *arguments],
            env=environment,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        lines = done.stdout.splitlines()
        assert (done.returncode, done.stderr, lines[-1:]) == (0, "", ["ok"])
        return lines[:-1]

    return call


REAL = "/dev/null", "/sys/dev/char/1:3", "/sys/kernel", "/sys/kernel/uevent_seqnum"
OURS = (
    "/dev/vfio/vfio",
    f"/sys/bus/pci/devices/{BDF}",
    "/sys/kernel/iommu_groups",
    f"/sys/bus/pci/devices/{BDF}/vendor",
)


def parsed(lines):
    """[(function, its arguments, which pointer, result)]"""
    return [(line[1], line[3], line[4], line[5]) for line in map(LINE.fullmatch, lines) if line]


def test_names_that_cannot_be_read(call):
    expected = call("paths", plainly=True)

    assert call("paths") == expected
    assert sum("EFAULT" in line for line in expected) > 1000
    assert sum("ENOENT" in line for line in expected) > 100


def test_buffers_that_cannot_be_written(call):
    expected = call("names", *REAL, plainly=True)

    # Into a struct statvfs libc writes by itself, and dies; in what is merged with our tree, we do.
    def kinder(lines):
        return [re.sub("^(statvfs.*): signal 11$", r"\1: -1 EFAULT", line) for line in lines]

    assert kinder(call("names", *REAL)) == kinder(expected)
    assert call("names", *OURS) == kinder(expected)
    assert sum("EFAULT" in line for line in expected) > 100


def test_files_of_others(call, tmp_path):
    results = []
    for plainly in (True, False):
        (tmp_path / "file").write_bytes(b"some text")
        results.append(call("file", str(tmp_path / "file"), plainly=plainly))

    assert results[0] == results[1]


WRITE_TO_IT = {
    "read",
    "pread",
    "pread64",
    "__pread_chk",
    "fstat",
    "fstat64",
    "__fxstat",
    "fstatat",
    "statx",
    "fstatfs",
}


SEGMENTS = "pkey_mprotect", "shmat", "shmdt"
SOCKETS = {
    "accept", "accept4", "bind", "connect", "__connect", "getpeername", "getsockname", "getsockopt", "recv", "recvfrom",
    "recvmmsg", "recvmsg", "__recv_chk", "__recvfrom_chk", "send", "__send", "sendmmsg", "sendmsg", "sendto", "setsockopt",
}  # fmt: skip


def test_a_device(call):
    for function, arguments, pointer, result in parsed(call("device")):
        where = function, arguments, pointer, result
        if function in ("mmap", "mmap64", "munmap", "mprotect", "madvise", "mremap", *SEGMENTS):
            assert result == "-1 EINVAL", where
        elif function in SOCKETS:
            assert result == "-1 ENOTSOCK", where
        elif pointer != "read-only" or function in WRITE_TO_IT:
            assert result == "-1 EFAULT", where
        else:
            assert "signal" not in result, where


SET_IOMMU, CHECK_EXTENSION = "102", "101"


def test_arguments_of_ioctls(call):
    """Whoever looks at a structure of zeroes, and does not like it, cannot look at one that is not there."""
    for kind in "\n".join(call("ioctl")).split("- ")[1:]:
        lines = parsed(kind.splitlines())
        good = {number: result for _, number, pointer, result in lines if pointer == "good"}
        assert "-1 EINVAL" in good.values()
        for _, number, pointer, result in lines:
            looked = good[number] in ("-1 EINVAL", "-1 ENODEV") and number != SET_IOMMU
            if number != CHECK_EXTENSION:
                expected = "-1 EFAULT" if looked and pointer not in ("good", "read-only") else good[number]
                assert (number, pointer, result) == (number, pointer, expected)


def test_every_function_is_called(call, tmp_path):
    (tmp_path / "file").touch()
    calls = call("paths"), call("names", *OURS), call("file", str(tmp_path / "file"))
    called = {function for lines in calls for function, *_ in parsed(lines)}

    assert allowed() - called == WITHOUT_POINTERS


@pytest.mark.full
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("optimize", ["-O1", "-O3"])
def test_no_compiler_knows_better(call, tmp_path, compiler, optimize):
    if not shutil.which(compiler):
        pytest.skip(f"there is no {compiler}")
    library = tmp_path / "library.so"
    flags = [flag for flag in SHIM if not str(flag).startswith("-DVFP_EXPORT")]
    subprocess.run(
        [compiler, "-std=gnu11", optimize, "-fPIC", "-shared", "-fvisibility=hidden", *flags, "-o", library],
        check=True,
        timeout=PATIENCE,
    )

    assert call("paths", LD_PRELOAD=str(library)) == call("paths", plainly=True)


RUST = """
fn main() {
    println!("{:?}", std::fs::metadata("/dev/null").map(|it| it.is_file()));
    println!("{:?}", std::fs::metadata("/dev/vfio/vfio").map(|it| it.is_file()));
    println!("{:?}", std::fs::metadata("/nonexistent").map(|_| ()).err());
}
"""


def rust_compiler(environment):
    """The first rustc on PATH that compiles: rustup's is there before, and after, any compiler that it would start."""
    for folder in environment["PATH"].split(os.pathsep):
        found = shutil.which("rustc", path=folder)
        if (
            found
            and not subprocess.run(
                [found, "--version"], env=environment, check=False, capture_output=True, timeout=PATIENCE
            ).returncode
        ):
            return found
    return None


def test_a_rustc_without_a_compiler_behind_it_is_none(tmp_path):
    """As rustup's in a home that has no toolchain, or of another user; one further on in PATH is."""
    for name, script in ("wrapper", "exit 1"), ("real", "echo rustc 1.63.0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rustc").write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
        (tmp_path / name / "rustc").chmod(0o755)
    wrapper, real = tmp_path / "wrapper", tmp_path / "real"

    assert rust_compiler({"PATH": f"{wrapper}"}) is None
    assert rust_compiler({"PATH": f"{wrapper}:{real}"}) == str(real / "rustc")


@pytest.fixture
def rust(tmp_path):
    """Compile a program; skips without a compiler."""
    # rustup's rustc starts one that it keeps in the user's home, which is not $HOME in tests; and none may be fetched.
    environment = {**os.environ, "RUSTUP_AUTO_INSTALL": "0"}
    with contextlib.suppress(KeyError):  # a user of whom the system knows nothing has none
        environment.setdefault("RUSTUP_HOME", str(Path(pwd.getpwuid(os.getuid()).pw_dir) / ".rustup"))
    compiler = rust_compiler(environment)
    if compiler is None:
        pytest.skip("there is no rustc")

    def rust(text):
        source, program = tmp_path / "probe.rs", tmp_path / "probe"
        source.write_text(text, encoding="ascii")
        subprocess.run([compiler, "-o", program, source], env=environment, check=True, timeout=PATIENCE)
        return program

    return rust


def test_rust_asks_whether_statx_is_there(daemon, rust):
    program = rust(RUST)
    environment = {**os.environ, **preloaded(daemon.directory)}
    done = subprocess.run(
        [program], env=environment, check=True, capture_output=True, text=True, timeout=PATIENCE
    )

    assert done.stdout.splitlines()[:2] == ["Ok(false)", "Ok(false)"]
    assert "NotFound" in done.stdout

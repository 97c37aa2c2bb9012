# SPDX-License-Identifier: MIT
"""What the system refuses is one line of error with its cause, and exit status 1: never a traceback, never silence."""

import errno
import os
import re
import resource
import subprocess

import pytest

from tests.sample import sampled
from tests.system.run.helpers import HERE, PATIENCE, compile_c, short_directory
from vfioemu import starting, world
from vfioemu.private import PlaceError

GOLDEN = str(HERE.parents[2] / "protocol" / "golden" / "linux-6.12" / "dirty_bad.jsonl")
RUN = ["run", "--device=mtty", "--", "true"]
STARTS_DAEMONS = [
    ["serve", "--private", "--device=mtty"],
    ["serve", "--device=mtty"],
    RUN,
    ["demo"],
    ["conformance", "--socket", "-j1", GOLDEN],
    ["conformance", "--socket", "-j2", GOLDEN],
]
ASKS_DAEMONS = [
    ["mdev", "list"],
    ["trace"],
    ["stats"],
    ["stop"],
    ["migrate", "unix:/nowhere", "--ram=1MiB"],
    ["incoming", "unix:/nowhere", "--ram=1MiB"],
    ["run", "--instance=none", "--", "true"],
]
NUMBERS = {
    "x86_64": {
        "bind": 49, "connect": 42, "epoll_create1": 291, "eventfd2": 290, "flock": 73, "listen": 50, "memfd_create": 319,
        "mkdir": 83, "pidfd_open": 434, "pipe2": 293, "rt_sigtimedwait": 128, "setsockopt": 54, "getsockopt": 55,
        "socket": 41, "socketpair": 53, "symlink": 88, "accept4": 288, "setsid": 112, "rename": 82,
    }
}  # fmt: skip
SPARED = {"pidfd_open", "accept4"}
"""There is another way."""


def vfioemu(*arguments, before=(), **more):
    """Run a command to its end."""
    environment = {**os.environ, **more.pop("env", {})}
    return subprocess.run(
        [*before, *starting.command(*arguments)],
        capture_output=True, text=True, check=False, timeout=PATIENCE, stdin=subprocess.DEVNULL, env=environment, cwd="/", **more,
    )  # fmt: skip


def assert_told(done, *causes):
    """It has failed, and said why in one line; a hint may follow."""
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr + done.stdout
    assert "internal error" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("vfioemu: error: ")]
    assert len(errors) == 1, done.stderr
    assert all(
        line in errors or line.startswith(("  hint: ", "vfioemu: INFO: ", "vfioemu: WARNING: "))
        for line in done.stderr.splitlines()
    ), done.stderr
    assert any(cause in errors[0] for cause in causes), errors


@pytest.fixture(scope="module")
def forbid(tmp_path_factory):
    return compile_c(HERE / "forbid.c", tmp_path_factory.mktemp("forbid") / "forbid")


class TestForbiddenCalls:
    @pytest.fixture
    def numbers(self):
        machine = os.uname().machine
        if machine not in NUMBERS:
            pytest.skip(f"the numbers of system calls of {machine} are not known here")
        return NUMBERS[machine]

    @pytest.mark.parametrize("error", sampled([errno.EPERM, errno.ENOSYS]), ids=["EPERM", "ENOSYS"])
    @pytest.mark.parametrize(
        "call",
        ["memfd_create", "socketpair", "rt_sigtimedwait", "epoll_create1", "mkdir", "symlink", "pidfd_open"],
    )
    def test_run(self, forbid, numbers, call, error):
        self.check(forbid, numbers, call, error)

    @pytest.mark.slow
    @pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS], ids=["EPERM", "ENOSYS"])
    @pytest.mark.parametrize("call", sorted(NUMBERS["x86_64"]))
    def test_run_with_any_of_them(self, forbid, numbers, call, error):
        self.check(forbid, numbers, call, error)

    def check(self, forbid, numbers, call, error):
        done = vfioemu(*RUN, before=[forbid, str(error), str(numbers[call])])
        if call in SPARED and done.returncode == 0:
            assert done.stderr == ""
        else:
            assert_told(done, os.strerror(error), "Connection reset by peer")

    @pytest.mark.parametrize("call", ["memfd_create", "socketpair"])
    @pytest.mark.parametrize(
        "command", [STARTS_DAEMONS[0], STARTS_DAEMONS[3], STARTS_DAEMONS[4]], ids=lambda c: c[0]
    )
    def test_its_name_is_told(self, forbid, numbers, call, command):
        done = vfioemu(*command, before=[forbid, str(errno.EPERM), str(numbers[call])])
        assert_told(done, f"{call}: Operation not permitted")
        assert "seccomp" in done.stderr


def need_mounts():
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode or os.geteuid():
        pytest.skip("only root can mount")


CLOSED = "mount --bind -o ro /dev/shm /dev/shm; mount --bind /tmp /tmp; mount -o remount,bind,ro /tmp"


def among(mounts, xdg):
    """A shell that mounts, and then becomes a command."""
    environment = "unset XDG_RUNTIME_DIR TMPDIR VFIOEMU_RUNTIME_DIR" + (
        f"; export XDG_RUNTIME_DIR={xdg}" if xdg else ""
    )
    return ["unshare", "-m", "sh", "-ec", f'{mounts}; {environment}; exec "$0" "$@"']


class TestFileSystems:
    @pytest.mark.parametrize("command", STARTS_DAEMONS, ids=" ".join)
    def test_read_only(self, command):
        need_mounts()
        assert_told(vfioemu(*command, before=among(CLOSED, "")), "Read-only file system")

    @pytest.mark.parametrize("command", ASKS_DAEMONS, ids=" ".join)
    def test_read_only_where_there_is_no_daemon(self, command):
        need_mounts()
        hidden = f"{CLOSED}; mount -t tmpfs none /tmp"
        assert_told(
            vfioemu(*command, before=among(hidden, "")), "No such file or directory", "no daemon runs"
        )

    @pytest.mark.parametrize("inodes", sampled([6, 1, 20, 3, 5, 8, 90], 3))
    @pytest.mark.parametrize("command", [RUN, STARTS_DAEMONS[4]], ids=lambda c: c[0])
    def test_no_inodes_left(self, command, inodes):
        need_mounts()
        mounts = f"{CLOSED}; mount -t tmpfs -o nr_inodes={inodes},mode=700 none /mnt"
        assert_told(vfioemu(*command, before=among(mounts, "/mnt")), "No space left on device")


def limited(number, value):
    return lambda: resource.setrlimit(number, (value, value))


class TestLimits:
    @pytest.mark.parametrize("files", sampled([8, 6, 10, 7, 9, 11, 12], 3))
    @pytest.mark.parametrize("command", [RUN, ["conformance", "--socket", "-j2", GOLDEN]], ids=lambda c: c[0])
    def test_few_files(self, command, files):
        done = vfioemu(*command, preexec_fn=limited(resource.RLIMIT_NOFILE, files))
        assert_told(done, "Too many open files")

    @pytest.mark.parametrize("files", sampled([17, 12, 14, 20, 24], 2))
    def test_few_files_leave_nothing(self, files):
        """Not even where a daemon has started, and the guest cannot be built on it."""
        with short_directory() as runtime:
            done = vfioemu(
                "demo",
                preexec_fn=limited(resource.RLIMIT_NOFILE, files),
                env={"XDG_RUNTIME_DIR": os.fspath(runtime)},
            )
            assert_told(done, "Too many open files")
            assert "ulimit -n" in done.stderr
            assert list((runtime / "vfioemu").iterdir()) == []

    def test_no_processes(self, tmp_path):
        """Root has as many as he likes: this is what fork() says to others."""
        (tmp_path / "sitecustomize.py").write_text(
            "import os, _posixsubprocess, subprocess\n"
            "def refuse(*_): raise BlockingIOError(11, os.strerror(11))\n"
            "os.fork = _posixsubprocess.fork_exec = subprocess._fork_exec = refuse\n"
        )
        for command in (
            RUN,
            ["demo"],
            ["conformance", "--socket", "-j1", GOLDEN],
        ):
            done = vfioemu(*command, env={"PYTHONPATH": os.fspath(tmp_path)})
            assert_told(done, "Resource temporarily unavailable")

    def test_no_threads(self):
        assert str(world.refusal(RuntimeError("can't start new thread"))) == "cannot start another thread"


class TestKilled:
    """The system kills what uses too much memory; whoever waits for it must not end without a word."""

    @pytest.mark.parametrize("signal", sampled([9, 15, 11]))
    @pytest.mark.parametrize("command", [RUN, ["demo"]], ids=lambda c: c[0])
    def test_a_daemon_that_is_killed_while_it_starts(self, tmp_path, command, signal):
        (tmp_path / "sitecustomize.py").write_text(
            f"import os, sys\nif 'serve' in sys.orig_argv: os.kill(os.getpid(), {signal})\n"
        )
        done = vfioemu(*command, env={"PYTHONPATH": os.fspath(tmp_path)})
        name = {9: "SIGKILL", 15: "SIGTERM", 11: "SIGSEGV"}[signal]
        assert_told(done, f"was ended by {name} before it was ready")
        assert ("too much memory" in done.stderr) == (signal == 9)

    def test_one_in_the_background(self, tmp_path):
        (tmp_path / "sitecustomize.py").write_text(
            "import os\nfork = os.fork\n"
            "def killed():\n    pid = fork()\n    return pid or os.kill(os.getpid(), 9)\n"
            "os.fork = killed\n"
        )
        done = vfioemu("serve", "--background", "--device=mtty", env={"PYTHONPATH": os.fspath(tmp_path)})
        assert_told(done, "was ended by SIGKILL before it was ready")


class TestWhich:
    """Only what the system says to whoever asks for something sensible is the world's."""

    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.EBADF, os.strerror(errno.EBADF)),
            OSError(errno.EINVAL, os.strerror(errno.EINVAL)),
            OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK)),
            OSError("no number"),
            RuntimeError("anything"),
            ImportError("cannot import name 'x'"),
            ValueError("x"),
            KeyError("x"),
            BaseExceptionGroup("", [OSError(errno.ENOSPC, "full"), ValueError("x")]),
            ExceptionGroup("", [ExceptionGroup("", [OSError(errno.EBADF, os.strerror(errno.EBADF))])]),
        ],
        ids=repr,
    )
    def test_bugs_of_ours(self, error):
        assert world.refusal(error) is None

    @pytest.mark.parametrize(
        ("error", "what"),
        [
            (OSError(errno.EROFS, os.strerror(errno.EROFS), "/a"), "/a: Read-only file system"),
            (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), b"/\xff"), "/\udcff: No space left on device"),
            (OSError(errno.EPERM, os.strerror(errno.EPERM), "a", None, "/b"), "/b: Operation not permitted"),
            (MemoryError(), "not enough memory"),
            (PlaceError("nowhere", "do"), "nowhere"),
            (
                ImportError("x.so: failed to map segment from shared object"),
                "x.so: failed to map segment from shared object",
            ),
            (ExceptionGroup("", [OSError(errno.EIO, "it is gone")]), "it is gone"),
            (
                OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
                "the system refuses what we need: Cannot allocate memory",
            ),
        ],
        ids=repr,
    )
    def test_the_worlds(self, error, what):
        assert str(world.refusal(error)) == what

    def test_the_call_is_named(self):
        for call, name in (
            (lambda: os.listdir("/proc/self/fd/x"), "/proc/self/fd/x"),
            (lambda: os.kill(1 << 22, 0), "kill"),
        ):
            with pytest.raises(
                OSError, match=re.escape(os.strerror(errno.ENOENT)) + "|No such process"
            ) as raised:
                call()
            assert str(world.refusal(raised.value)).startswith(f"{name}: ")

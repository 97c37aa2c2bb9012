# SPDX-License-Identifier: MIT
"""What other users can do to all that a daemon has below its runtime directory: those whom it serves, and those whom not."""

import contextlib
import errno
import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import trio

from tests.users import FRIEND, STRANGER, as_user, need_two_users
from vfioemu.client import connect
from vfioemu.testing.daemon import DaemonProcess
from vfioemu.wire import messages as m

PATIENCE = 60
DEVICES = ["--device=edu", "--device=mtty", "--device=dma-engine,bus=mdev"]
SOCKETS = {"vfio.sock", "control.sock"}


WITHOUT_NODES = """
import os, stat, sys
from vfioemu.cli.main import main
mknod = os.mknod
def refuse(path, mode, device=0):
    if stat.S_ISCHR(mode):
        raise PermissionError(1, "no")
    mknod(path, mode, device)
os.mknod = refuse
main()
"""


@contextlib.contextmanager
def daemon(directory, *options, before=("-m", "vfioemu.cli.main")):
    """A daemon, started with the most careless umask."""
    ready, theirs = os.pipe()
    line = [sys.executable, *before, "serve", f"--runtime-dir={directory}", f"--ready-fd={theirs}"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*line, *options, *DEVICES], stdout=log, stderr=log, pass_fds=[theirs], umask=0
        )
        os.close(theirs)
        running = DaemonProcess(process, directory, log)
        try:
            with os.fdopen(ready, "rb") as pipe:
                assert pipe.readline(), running.log()
            yield running
        finally:
            running.stop()


@pytest.fixture(params=["nodes", "no nodes"])
def served(request, open_folder):
    """A daemon that serves FRIEND; without device nodes, sockets stand for them."""
    need_two_users()
    before = ("-m", "vfioemu.cli.main") if request.param == "nodes" else ("-c", WITHOUT_NODES)
    with daemon(open_folder / "run", f"--allow-uid={FRIEND}", before=before) as running:
        yield running


def contents(directory):
    """All that is there: of each entry its kind, mode, owner, size and bytes."""
    found = {}
    for folder, folders, files in os.walk(directory):
        for name in [".", *folders, *files]:
            path = Path(folder, name)
            status = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
            if path.is_symlink():
                content = os.fsencode(os.readlink(path))
            found[os.fspath(path)] = stat.filemode(status.st_mode), status.st_uid, status.st_size, content
    return found


WRITES = (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_CREAT)


def attack(paths, elsewhere):
    """Try to change all of it: what worked."""
    done = []

    def attempt(what, path, function, *arguments, **more):
        try:
            result = function(*arguments, **more)
        except OSError:
            return
        done.append((what, path))
        if what.startswith("open"):
            os.close(result)

    for number, path in enumerate(paths):
        for flags in WRITES:
            attempt(f"open {flags:#o}", path, os.open, path, flags | os.O_NONBLOCK, 0o666)
        attempt("truncate", path, os.truncate, path, 0)
        attempt("chmod", path, os.chmod, path, 0o777)
        attempt("chown", path, os.chown, path, os.getuid(), -1)
        attempt("utime", path, os.utime, path, (1, 1))
        attempt("setxattr", path, os.setxattr, path, "user.x", b"x")
        attempt("link", path, os.link, path, f"{elsewhere}/{number}", follow_symlinks=False)
        attempt("rename", path, os.rename, path, f"{path}.old")
        attempt("rename out", path, os.rename, path, f"{elsewhere}/{number}.old")
        attempt("unlink", path, os.unlink, path)
        attempt("rmdir", path, os.rmdir, path)
        inside = f"{path}/planted"
        attempt("open: make", path, os.open, inside, os.O_WRONLY | os.O_CREAT, 0o666)
        attempt("open: nameless", path, os.open, path, os.O_TMPFILE | os.O_WRONLY)
        attempt("mkdir", path, os.mkdir, inside)
        attempt("mkfifo", path, os.mkfifo, inside)
        attempt("symlink", path, os.symlink, "/", inside)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as planted:
            attempt("bind", path, planted.bind, inside)
        for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_UNIX, kind) as sock:
                sock.settimeout(PATIENCE)
                attempt(f"connect {kind.name}", path, sock.connect, path)
    return done


def secrets(paths):
    """Which files, that show nothing of a machine, can be read."""
    return [path for path in paths if Path(path).name in ("lock", "pid", "log") and os.access(path, os.R_OK)]


@pytest.mark.parametrize("uid", [STRANGER, FRIEND])
def test_nothing_can_be_changed_made_or_filled(served, common, uid):
    before = contents(served.directory)
    assert SOCKETS <= {Path(path).name for path in before}
    assert len(before) > 100
    done = as_user(uid, attack, sorted(before), os.fspath(common))
    assert done == [("connect SOCK_SEQPACKET", os.fspath(served.socket_path))]
    assert as_user(uid, secrets, sorted(before)) == []
    assert contents(served.directory) == before
    assert list(common.iterdir()) == []
    assert served.ask("list")["parameters"] == {"dma_entry_limit": 65535}


def spoken_to(path):
    """What comes back for a byte at the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(os.fspath(path))
        try:
            sock.send(b"x")
            return sock.recv(100)
        except ConnectionError:
            return b""


def test_who_is_not_allowed_hears_nothing_and_others_are_served(served):
    assert as_user(STRANGER, spoken_to, served.socket_path) == b""

    async def greeted():
        async with connect(served.socket_path, uid=0) as session:
            return session.number

    assert as_user(FRIEND, trio.run, greeted) > 0


def test_who_is_served_writes_no_file_of_sys_either(served):
    """The daemon answers for some of them: whoever may not write the file may not do it by a call."""
    root = served.directory / "root"
    live = [
        path.relative_to(root)
        for path in sorted(root.rglob("*"))
        if stat.S_ISREG(status := path.lstat().st_mode) and status & stat.S_ISVTX
    ]
    assert len(live) > 10

    async def written():
        answers, mapped = set(), set()
        async with connect(served.socket_path, uid=0) as session:
            for path in live:
                for value in (b"0\n", b"1\n", b"0000:00:01.0\n", b"00000000-0000-4000-8000-00000000abcd\n"):
                    data = os.fsencode(path) + b"\0" + value
                    answers.add((await session.call(m.ATTR_WRITE, 0, 0, len(value), data=data)).result)
                mapped.add((await session.call(m.ATTR_MMAP, 0, 0, 4096, data=os.fsencode(path))).result)
        return answers, mapped

    before = contents(served.directory)
    answers, mapped = as_user(FRIEND, trio.run, written)
    assert answers == {-errno.EACCES}
    assert mapped == {-errno.EACCES, -errno.ENODEV}  # what is no BAR cannot be mapped by anybody
    assert contents(served.directory) == before


def test_private_one_cannot_be_come_to(open_folder):
    need_two_users()
    with daemon(open_folder / "run") as running:
        before = contents(running.directory)
        for uid in (STRANGER, FRIEND):
            assert as_user(uid, attack, sorted(before), os.fspath(open_folder)) == []
        assert contents(running.directory) == before


def test_it_listens_nowhere_else(served):
    """Neither on TCP nor at a name without a file."""
    numbers = set()
    for fd in Path(f"/proc/{served.pid}/fd").iterdir():
        target = os.readlink(fd)
        if target.startswith("socket:["):
            numbers.add(target[8:-1])
    for table in ("tcp", "tcp6", "udp", "udp6"):
        lines = Path(f"/proc/{served.pid}/net/{table}").read_text().splitlines()[1:]
        assert not numbers & {line.split()[9] for line in lines}
    listening = [
        line.split()[7]
        for line in Path(f"/proc/{served.pid}/net/unix").read_text().splitlines()[1:]
        if line.split()[6] in numbers and int(line.split()[3], 16) & 0x10000
    ]
    assert sorted(listening) == sorted([os.fspath(served.socket_path), os.fspath(served.control_path)])


def test_where_others_cannot_come_to_it_that_is_said(open_folder):
    need_two_users()
    (open_folder / "closed").mkdir(0o700)
    directory = open_folder / "closed" / "run"
    line = [sys.executable, "-m", "vfioemu.cli.main", "serve", "--runtime-dir", os.fspath(directory)]
    line += [f"--allow-uid={FRIEND}", *DEVICES]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        said = process.stderr.readline()
        process.terminate()
        process.communicate()
    assert f"other users cannot reach {directory}: they may not enter {open_folder / 'closed'}" in said

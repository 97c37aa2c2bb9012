# SPDX-License-Identifier: MIT
"""Tests as two users: what somebody else can do to ours."""

import os
import pickle
import shutil
import signal
import socket
import tempfile
import traceback
from pathlib import Path

import pytest

STRANGER = 65533
"""Whom nothing of ours has ever named."""
FRIEND = 65532
"""Whom --allow-uid names."""


def need_two_users():
    """Skip where there is only one."""
    if os.geteuid():
        pytest.skip("only root can be two users")


@pytest.fixture
def two_users():
    """Skip an asynchronous test where there is only one: pytest-trio loses the reason of a skip within it."""
    need_two_users()


def become(uid):
    """Be that user from now on, without capabilities or groups."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.umask(0o022)


def as_user(uid, function, *arguments):
    """Call a function in a child that is another user, without capabilities or groups: what it returns, or raises."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(reader)
            become(uid)
            try:
                answer = True, function(*arguments)
            except Exception as error:  # noqa: BLE001 - raised again in the parent
                error.add_note(traceback.format_exc())
                answer = False, error
            with open(writer, "wb") as pipe:
                pickle.dump(answer, pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    assert not status, f"the child of uid {uid} ended with {status:#x}"
    good, answer = pickle.loads(data)
    if not good:
        raise answer
    return answer


@pytest.fixture
def open_folder():
    """A folder of ours in /tmp that everybody can go into, with a short name."""
    folder = Path(tempfile.mkdtemp(prefix="vfe-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def common():
    """A folder that everybody writes, as /tmp is; with a short name."""
    folder = Path(tempfile.mkdtemp(prefix="vfe-", dir="/tmp"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


class Listener:
    """Another user's process that listens at a socket; a context manager.

    Attributes:
        path: where.
    """

    def __init__(self, uid, path, kind=socket.SOCK_SEQPACKET):
        self.path = path
        self._uid = uid
        self._kind = kind

    def __enter__(self):
        ready, theirs = os.pipe()
        self._said, said = os.pipe()
        self._child = os.fork()
        if not self._child:
            try:
                os.close(self._said)
                become(self._uid)
                self._listen(theirs, said)
            finally:
                os._exit(0)
        os.close(theirs)
        os.close(said)
        assert os.read(ready, 1) == b"r"
        os.close(ready)
        return self

    def _listen(self, ready, said):
        os.umask(0)
        with socket.socket(socket.AF_UNIX, self._kind) as listener:
            listener.bind(os.fspath(self.path))
            listener.listen()
            os.write(ready, b"r")
            while True:
                connection, _ = listener.accept()
                data = connection.recv(1 << 17)  # or its end
                os.write(said, f"{len(data)}\n".encode())
                connection.close()

    def heard(self):
        """How many bytes the first connection brought; waits for that to end."""
        with os.fdopen(os.dup(self._said), "rb", buffering=0) as pipe:
            digits = b""
            while not digits.endswith(b"\n"):
                digits += pipe.read(1)
        return int(digits)

    def __exit__(self, *_):
        os.kill(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)
        os.close(self._said)

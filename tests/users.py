# SPDX-License-Identifier: MIT
"""Tests as two users: what somebody else can do to ours."""

import os
import pickle
import shutil
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


def as_user(uid, function, *arguments):
    """Call a function in a child that is another user, without capabilities or groups: what it returns, or raises."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(reader)
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.umask(0o022)
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

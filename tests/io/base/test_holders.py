# SPDX-License-Identifier: MIT
"""Whether anybody else has an eventfd."""

import os
import subprocess
import sys

from vfioemu.io.base.holders import is_abandoned


def test_an_eventfd_is_abandoned_when_the_last_other_process_has_closed_it():
    eventfd = os.eventfd(0)
    other = os.eventfd(0)
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(eventfd,)
    ) as holder:
        assert holder.stdin is not None
        assert not is_abandoned(eventfd, {holder.pid})
        assert not is_abandoned(eventfd, ())
        assert is_abandoned(other, {holder.pid})
        assert not is_abandoned(other, {0})  # a client that we cannot see
        holder.stdin.close()
        holder.wait()
        assert is_abandoned(eventfd, {holder.pid})
    os.close(eventfd)
    os.close(other)


def test_a_client_in_this_very_process():
    eventfd = os.eventfd(0)
    copy = os.dup(eventfd)
    assert is_abandoned(eventfd, {os.getpid()}, own=2)
    assert not is_abandoned(eventfd, {os.getpid()}, own=1)
    os.close(copy)
    assert is_abandoned(eventfd, {os.getpid()}, own=1)
    os.close(eventfd)


def test_what_is_no_eventfd_is_never_abandoned():
    assert not is_abandoned(0, ())
    assert not is_abandoned(10**6, ())

# SPDX-License-Identifier: MIT
"""Signals to a command that does not react any more end it, with its outcome if that is known."""

import subprocess
import sys

import pytest

STUCK = """
import os, signal
from unittest import mock
from vfioemu.cli.signals import Signals

signals = Signals()
signals.outcome = {outcome}
with mock.patch("time.monotonic", iter([0.0, 2.0]).__next__):
    os.kill(os.getpid(), signal.SIGINT)  # nobody handles it, and after two seconds
    os.kill(os.getpid(), signal.SIGTERM)
    raise SystemExit("it lives")
"""


@pytest.mark.parametrize(("outcome", "status"), [(None, 128 + 15), (0, 0), (5, 5)])
def test_a_command_that_is_stuck_ends_with_its_outcome(outcome, status):
    ended = subprocess.run([sys.executable, "-P", "-c", STUCK.format(outcome=outcome)], capture_output=True)

    assert (ended.returncode, ended.stderr) == (status, b"")

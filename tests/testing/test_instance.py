# SPDX-License-Identifier: MIT
"""What an instance leaves when its daemon does not end as it should."""

import subprocess

import pytest

from vfioemu.testing.daemon import DaemonProcess
from vfioemu.testing.instance import Instance


def test_calls_of_a_daemon_that_had_to_be_killed_are_kept(tmp_path, monkeypatch):
    instance = Instance(trace_file=tmp_path / "trace.jsonl")
    instance.start()
    stop = DaemonProcess.stop

    def late(daemon):
        stop(daemon)
        raise subprocess.TimeoutExpired("the daemon", 0)

    monkeypatch.setattr(DaemonProcess, "stop", late)
    folder = instance.folder
    monkeypatch.setattr(type(instance.trace), "data", b"{}\n")
    with pytest.raises(subprocess.TimeoutExpired):
        instance.stop()
    assert (tmp_path / "trace.jsonl").read_bytes().startswith(b"{}\n")
    assert not folder.exists()

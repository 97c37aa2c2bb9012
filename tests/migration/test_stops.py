# SPDX-License-Identifier: MIT
"""Processes that are stopped by SIGSTOP: neither side hangs, and what each says of who runs the guest is so."""

import json
import signal
import time

import pytest

from tests.cli.test_migrate import finish, json_events, place
from vfioemu.migration import events

CALL, PEER = 2, 3
BOUND = 2 * CALL + PEER + 10
"""Seconds: twice each limit that may apply, and what a busy machine takes."""
LIMITS = ["--call-timeout", f"{CALL}s", "--peer-timeout", f"{PEER}s"]


def stop(process):
    process.send_signal(signal.SIGSTOP)


def wait_for_phase(process, phase):
    """Read a --json process up to a phase."""
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "phase" and event["phase"] == phase:
            return
    raise AssertionError(process.stderr.read())


def end(text):
    [told] = [event for event in json_events(text) if isinstance(event, events.End)]
    return told


@pytest.mark.full
@pytest.mark.parametrize("phase", ["precopy", "stopping"])
def test_stopped_daemon_of_the_source_ends_it_in_time(phase):
    with place() as it:
        incoming, uri = it.incoming("--json", "--run-for", "100ms", *LIMITS)
        source = it.migrate(uri, "--json", "--bandwidth", "8MiB/s", *LIMITS)
        wait_for_phase(source, phase)
        stop(it.daemons["a"])
        began = time.monotonic()
        code, out, err = finish(source, BOUND)
        # Stopped late in the last phase, it may not be needed any more.
        assert code == 1 or (phase == "stopping" and code in (0, 6)), err
        if code == 1:
            told = end(out)
            assert (told.source_runs, told.lost_devices) == (False, ["dma0"])
            assert "--call-timeout 2s" in err
            assert time.monotonic() - began < BOUND
            assert incoming.poll() is None, "it takes the next guest"


@pytest.mark.full
def test_first_signal_ends_a_source_whose_daemon_is_stopped():
    with place() as it:
        _, uri = it.incoming("--json", *LIMITS)
        source = it.migrate(uri, "--json", "--bandwidth", "8MiB/s", "--call-timeout", "1000s")
        wait_for_phase(source, "precopy")
        stop(it.daemons["a"])
        time.sleep(1)  # until a call hangs, whichever it is
        began = time.monotonic()
        source.send_signal(signal.SIGINT)
        code, out, _ = finish(source, 20)
        assert time.monotonic() - began < 2 + 3  # a busy machine, and the end of the interpreter
        assert (code, end(out).outcome, end(out).source_runs) == (1, "cancelled", False)


@pytest.mark.full
@pytest.mark.parametrize("victim", ["destination", "its daemon"])
def test_source_leaves_a_destination_that_is_stopped(victim):
    with place() as it:
        incoming, uri = it.incoming("--json", *LIMITS)
        source = it.migrate(uri, "--json", "--bandwidth", "8MiB/s", *LIMITS)
        wait_for_phase(source, "precopy")
        stop(incoming if victim == "destination" else it.daemons["b"])
        code, out, err = finish(source, BOUND)
        assert code == 3, err
        told = end(out)
        assert told.source_runs
        assert told.reason in ("peer_silent", "daemon_silent")
        assert "-timeout" in told.detail


@pytest.mark.full
def test_destination_leaves_a_source_that_is_stopped():
    with place() as it:
        incoming, uri = it.incoming("--json", "--attempts", "1", *LIMITS)
        source = it.migrate(uri, "--json", "--bandwidth", "8MiB/s")
        wait_for_phase(source, "precopy")
        stop(source)
        code, out, _ = finish(incoming, BOUND)
        assert (code, end(out).reason) == (3, "peer_silent")


@pytest.mark.full
def test_stopped_daemon_does_not_keep_incoming_from_being_interrupted():
    with place() as it:
        incoming, uri = it.incoming("--json", "--call-timeout", "1000s")
        source = it.migrate(uri, "--json", "--bandwidth", "8MiB/s")
        wait_for_phase(source, "precopy")
        stop(it.daemons["b"])
        time.sleep(0.5)
        began = time.monotonic()
        incoming.send_signal(signal.SIGINT)
        code, _, _ = finish(incoming, 20)
        assert time.monotonic() - began < 2 + 3
        assert code == 4


@pytest.mark.full
@pytest.mark.parametrize("victim", ["a", "b"])
def test_short_stops_of_a_daemon_change_nothing(victim):
    with place() as it:
        incoming, uri = it.incoming("--json", "--run-for", "100ms")
        source = it.migrate(uri, "--json", "--bandwidth", "8MiB/s", "--downtime", "1s")
        wait_for_phase(source, "precopy")
        for _ in range(2):
            stop(it.daemons[victim])
            time.sleep(1.5)
            it.daemons[victim].send_signal(signal.SIGCONT)
            time.sleep(0.2)
        code, _, err = finish(source)
        assert code == 0, err
        assert finish(incoming)[0] == 0


@pytest.mark.full
def test_daemon_that_is_stopped_before_the_guest_is_built_ends_both_commands_in_time():
    with place() as it:
        stop(it.daemons["a"])
        began = time.monotonic()
        code, _, err = finish(it.migrate(f"unix:{it.base}/m", *LIMITS), BOUND)
        assert code == 1
        assert "the daemon has not greeted for 2 s" in err
        assert time.monotonic() - began < BOUND

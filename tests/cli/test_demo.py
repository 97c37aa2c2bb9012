# SPDX-License-Identifier: MIT
"""`vfioemu demo` under signals and broken pipes: its exit status says what became of the guest."""

import os
import signal
import subprocess
import time

import pytest

from tests.cli.test_migrate import argv
from tests.sample import sampled
from vfioemu.cli.values import exact_rate
from vfioemu.sizes import format_size, parse_size


def demo(*options):
    return subprocess.Popen(
        argv("demo", *options),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def until(stream, word):
    """Read up to a line with that word."""
    for line in stream:
        if word in line:
            return
    raise AssertionError(f"no {word!r}")


@pytest.mark.parametrize(
    ("number", "whom"),
    sampled([(signal.SIGINT, "group"), (signal.SIGTERM, "process"), (signal.SIGHUP, "process")]),
)
def test_signal_cancels_the_migration(number, whom):
    """`kill PID`, or what a terminal does, which has the whole group in mind."""
    with demo("--bandwidth", "4MiB/s") as it:
        until(it.stderr, "RAM 256.0 MiB")
        began = time.monotonic()
        (os.kill if whom == "process" else os.killpg)(it.pid, number)
        out, err = it.communicate(timeout=60)
    assert it.returncode == 4, err
    assert time.monotonic() - began < 20
    assert "the source runs the guest" in out
    assert err.endswith("vfioemu: error: the migration was cancelled\n")


def test_signal_before_there_is_a_migration_ends_all():
    number = signal.SIGTERM
    with demo() as it:
        until(it.stdout, "daemon b:")
        it.send_signal(number)
        _, err = it.communicate(timeout=60)
    # It may come when the migration has begun already: then it is the migration's.
    assert it.returncode in (128 + number, 4), err
    assert err.splitlines()[-1].startswith("vfioemu: error: ")
    assert "Traceback" not in err


@pytest.mark.slow
def test_signals_after_the_migration_do_not_change_how_it_ended():
    with demo("--bandwidth", "0") as it:
        until(it.stdout, "verified 65536/65536 pages")
        deadline = time.monotonic() + 60
        while it.poll() is None:
            assert time.monotonic() < deadline
            it.send_signal(signal.SIGINT)
            time.sleep(0.001)
        assert it.returncode == 0, it.stderr.read()


@pytest.mark.slow
def test_reader_that_leaves_changes_nothing():
    with demo("--bandwidth", "0") as it:
        it.stdout.readline()
        os.dup2(os.open(os.devnull, os.O_RDONLY), it.stdout.fileno())  # the end of the pipe is closed
        err = it.stderr.read()
        assert it.wait(60) == 0, err
    assert "error" not in err


@pytest.mark.parametrize(
    ("count", "text"),
    [(1, "1B/s"), (64 << 20, "64MiB/s"), (3 << 29, "1536MiB/s"), (1 << 40, "1024GiB/s"), (0, "0B/s")],
)
def test_rates_are_shown_as_one_types_them(count, text):
    assert exact_rate(count) == text
    assert parse_size(text.removesuffix("/s")) == count


def test_sizes_are_shown_up_to_terabytes():
    assert [format_size(n) for n in (5, 1 << 20, 3 << 39)] == ["5 B", "1.0 MiB", "1.5 TiB"]

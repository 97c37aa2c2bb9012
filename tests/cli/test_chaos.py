# SPDX-License-Identifier: MIT
"""`vfioemu chaos` as a process: what it prints, and exit codes."""

import subprocess

import pytest

from tests.cli.test_migrate import argv


def run(*options, timeout=120):
    return subprocess.run(
        argv("chaos", *options), capture_output=True, text=True, timeout=timeout, check=False
    )


def test_row_of_the_table_is_printed():
    done = run("--fault", "destination KILL, started", "--phase", "COMMIT", "--phase", "STARTED")
    assert (done.returncode, done.stderr) == (0, "")
    assert "destination KILL, started again  S3 N1" in done.stdout
    assert "2 migrations, 0 not as expected" in done.stdout


def test_seeds_are_run_one_after_the_other():
    done = run("--seed", "1", "--count", "2", "--shrink")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [" seed 1", " seed 2"]


def test_fault_that_is_none_is_a_usage_error():
    done = run("--fault", "flood")
    assert done.returncode == 2
    assert "no fault has 'flood' in its name" in done.stderr


@pytest.mark.full
def test_real_processes_that_are_killed_and_stopped_break_no_rule():
    done = run("--real", "12", "--seed", "1", timeout=600)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "12 migrations, 0 not as they have to be" in done.stdout

# SPDX-License-Identifier: MIT
"""`python -m tests.fuzzing` as people and CI call it: one line for what went wrong, and the exit status of its kind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-P", "-m", "tests.fuzzing"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.fspath(ROOT)}


def fuzz(*arguments, cwd, **environment):
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_walk_passes_in_any_directory(tmp_path):
    status, printed, errors = fuzz("--engine=walk", "--seconds=0.1", "--from-seed=1", "-j2", cwd=tmp_path)

    assert (status, errors) == (0, "")
    assert printed.splitlines()[-1].endswith(" runs passed, 0 failed")


def test_usage(tmp_path):
    status, _, errors = fuzz("--engine=run", cwd=tmp_path)

    assert status == 2
    assert errors.startswith("vfioemu: error: ")
    assert errors.endswith("hint: see `python -m tests.fuzzing --help`\n")


def test_an_engine_that_is_not_here(tmp_path):
    status, _, errors = fuzz("--engine=kernel", f"--targets={tmp_path}", cwd=tmp_path)

    assert status == 77
    assert errors.startswith("vfioemu: error: the engine kernel cannot run: there are no programs fuzz_*")


def test_no_processes(tmp_path):
    """Root has as many as he likes: this is what fork() says to others."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\ndef refuse(*_): raise BlockingIOError(11, os.strerror(11))\nos.fork = refuse\n"
    )

    status, _, errors = fuzz("--engine=walk", "-j2", cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")

    assert status == 1
    assert "Resource temporarily unavailable" in errors
    assert "Traceback" not in errors


def test_interrupt_ends_it_with_one_line(tmp_path):
    """The terminal's: for the whole process group, when the first worker is there."""
    process = subprocess.Popen(
        [*COMMAND, "--engine=walk", "--minutes=10", "-j2"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(children.read_text().split()) < 2:
        assert process.poll() is None

    os.killpg(process.pid, signal.SIGINT)

    _, errors = process.communicate(timeout=100)
    assert process.returncode == 130
    assert errors.strip() == "vfioemu: interrupted"


@pytest.mark.full
def test_coverage_guides_it_in_any_directory(tmp_path):
    pytest.importorskip("atheris")

    status, printed, errors = fuzz("--engine=guided", "--seconds=5", "-j1", cwd=tmp_path)

    assert status == 0, printed + errors

# SPDX-License-Identifier: MIT
"""The C engine of `make fuzz` where there is no clang: a corpus is begun with, and an engine that ran nothing fails."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.fuzzing.engines import Plan

ROOT = Path(__file__).parents[2]
TARGET = """
#include "fuzz.h"
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size >= 4 && data[0] == 'B' && data[1] == 'O' && data[2] == 'O')
		abort();
	return 0;
}
"""


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("targets")
    (folder / "target.c").write_text(TARGET)
    sources = [folder / "target.c", ROOT / "csrc/fuzz_main.c"]
    subprocess.run(["cc", "-I", ROOT / "csrc", "-o", folder / "fuzz_small", *sources], check=True)
    (folder / "target.c").unlink()
    return folder


def executed(*arguments):
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=100)
    return done.returncode, sum(map(int, re.findall(r"number_of_executed_units: (\d+)", done.stderr)))


def test_corpus_is_begun_with_and_files_are_replayed(targets, tmp_path):
    target = targets / "fuzz_small"
    assert executed(target, "-runs=100", tmp_path) == (0, 100)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"hello")
    assert executed(target, "-runs=100", tmp_path) == (0, 100)
    assert executed(target, tmp_path / "a", tmp_path / "b") == (0, 2)
    (tmp_path / "c").write_bytes(b"BOO!")
    assert executed(target, f"-artifact_prefix={tmp_path}/", tmp_path)[0] == 77
    assert [path.read_bytes() for path in tmp_path.glob("crash-*")] == [b"BOO!"]


def plan(targets, work):
    return Plan(seconds=1, jobs=1, seed=1, work=work, golden=None, targets=targets)


def test_engine_runs_and_counts(targets, tmp_path):
    (report,) = plan(targets, tmp_path).run(["kernel"])
    assert report.runs > 0
    assert report.findings == []


def test_engine_that_ran_nothing_has_failed(tmp_path):
    (tmp_path / "fuzz_idle").write_text("#!/bin/sh\n")
    (tmp_path / "fuzz_idle").chmod(0o755)
    (report,) = plan(tmp_path, tmp_path / "w").run(["kernel"])
    assert [finding.why for finding in report.findings] == ["idle ran nothing"]

# SPDX-License-Identifier: MIT
"""A container whose dirty log can be cleared by hand answers everybody else as it did: golden traces know nothing of it."""

from dataclasses import replace

import pytest

from tests.conformance.golden import USUAL, load
from vfioemu.conformance.runner import Options, plan, run

FAMILIES = ("dirty_bad", "dirty_order", "dirty_quirks", "dirty_unmap", "dirty_pins", "dirty_groups")
FLAGS = {"dirty_bad/flags-on-mb0", "dirty_bad/flags-on-pp0"}
"""They try every value of the flags; 8 and 16 are EINVAL on the recorded kernel."""


@pytest.mark.parametrize("variant", ["as-posted", "fixed", "noclear-flag"])
def test_only_the_new_operations_are_answered_otherwise(variant):
    options = Options()
    jobs = plan([load(USUAL, family) for family in FAMILIES], options)
    specs = {id(job.spec): replace(job.spec, manual_clear=variant) for job in jobs}
    results = list(run([replace(job, spec=specs[id(job.spec)]) for job in jobs], options))

    failed = {result.scenario: result for result in results if not result.passed}
    assert set(failed) == FLAGS
    for result in failed.values():
        assert {difference.made["in"][8:16] for difference in result.differences} <= {"08000000", "10000000"}

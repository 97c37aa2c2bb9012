# SPDX-License-Identifier: MIT
"""Reasons for which a migration ends: each is explained, is in the schema, and is produced by a test."""

import json
from pathlib import Path

from tests.migration.test_endings import ENDINGS
from vfioemu.migration import reasons
from vfioemu.migration.plan import Reason

ROOT = Path(__file__).parents[2]
HOW = "python -m vfioemu.migration.reasons > docs/reasons.md"


def test_each_reason_has_a_cause_and_a_remedy():
    assert set(reasons.MEANINGS) == set(Reason), "vfioemu/migration/reasons.py"
    for meaning in reasons.MEANINGS.values():
        assert meaning.cause.endswith(".")
        assert not meaning.remedy.endswith(".")


def test_page_is_that_of_the_code():
    assert (ROOT / "docs" / "reasons.md").read_text() == reasons.page(), HOW


def test_schema_has_the_list():
    schema = json.loads((ROOT / "protocol" / "migration-events.schema.json").read_text())
    assert sorted(schema["$defs"]["Reason"]["enum"]) == sorted(Reason)


def test_each_reason_is_produced_by_a_test():
    assert set(ENDINGS) == set(Reason), "tests/migration/test_endings.py"

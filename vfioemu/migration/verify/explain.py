# SPDX-License-Identifier: MIT
"""What a comparison has found, in a sentence: for `end`, and for the last line that a user sees."""

from typing import Final

from vfioemu.migration.messages import Checked
from vfioemu.migration.plan import Reason

_LONGEST: Final = 300
"""Characters of what is said about one device."""


def explain(checked: Checked) -> tuple[Reason, str]:
    """Say what differs, or else what could not be compared; the sentence is empty if everything is the same."""
    differs = [f"{checked.mismatched_pages} of {checked.pages} pages differ"] * bool(checked.mismatched_pages)
    differs += [f"{name} differs ({what:.{_LONGEST}})" for name, what in checked.mismatched_devices.items()]
    return Reason.MISMATCH, "; ".join(differs)

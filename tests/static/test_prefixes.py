# SPDX-License-Identifier: MIT
"""Each C program has a prefix of its own, which says whose a name is: none of another's may be found in it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOREIGN = {"csrc/*.[ch]": "vfp", "csrc/preload/*.*": "vfe", "protocol/*.h": "vfe|vfp"}
"""The kernel library is vfe_, the preload library vfp_; what both ends of the socket know is vfioemu_."""


def foreign_names(text, prefixes):
    return set(re.findall(rf"\b(?:{prefixes})(?:_\w+)?\b", text, re.IGNORECASE))


@pytest.mark.parametrize(("pattern", "prefixes"), FOREIGN.items())
def test_names_have_the_prefix_of_their_program(pattern, prefixes):
    found = {file.name: foreign_names(file.read_text(), prefixes) for file in ROOT.glob(pattern)}

    assert found
    assert {name: names for name, names in found.items() if names} == {}


def test_a_foreign_name_is_found():
    text = "struct vfe *x = vfe_mark(VFE_DMA_READ), vfp_open, VFIOEMU_OPEN;"

    assert foreign_names(text, "vfe") == {"vfe", "vfe_mark", "VFE_DMA_READ"}
    assert foreign_names(text, "vfp") == {"vfp_open"}

# SPDX-License-Identifier: MIT
"""XXH64, as the twin has it, against its published values."""

import pytest

from tests.native import twin


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0xEF46DB3751D8E999),
        (b"a", 0xD24EC4F1A98C6E5B),
        (b"abc", 0x44BC2CF5AD770999),
        (b"Nobody inspects the spammish repetition", 0xFBCEA83C8A378BF1),
    ],
)
def test_the_twin_is_xxh64(data, expected):
    assert twin.xxh64(data) == expected

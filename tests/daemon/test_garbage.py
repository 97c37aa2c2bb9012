# SPDX-License-Identifier: MIT
"""Garbage collection: what lasts is not looked at again and again, and what is garbage goes."""

import gc
import weakref

from vfioemu.daemon.garbage import MUCH, collected_in_parts


class Knot:
    """In a cycle with itself."""

    def __init__(self):
        self.me = self


def test_what_lasts_is_left_out_while_there_is_much_of_it():
    with collected_in_parts():
        many = [Knot() for _ in range(MUCH + 1000)]
        gc.collect()
        assert gc.get_freeze_count() > MUCH
        forgotten = weakref.ref(many[0])

        new = Knot()
        gone = weakref.ref(new)
        del new
        gc.collect()
        assert gone() is None  # garbage of later on goes at once

        del many[0]
        gc.collect()
        assert forgotten() is not None  # it was left out
        for knot in many:
            del knot.me
        del knot
        many.clear()  # by the count of their references
        gc.collect()
        assert forgotten() is None  # there is little again, so all was looked at
    assert gc.get_freeze_count() == 0


def test_full_collections_are_small_as_long_as_it_lasts():
    before = gc.get_threshold()
    with collected_in_parts():
        young, middle, old = gc.get_threshold()
        assert young * middle * old < 50_000
    assert gc.get_threshold() == before

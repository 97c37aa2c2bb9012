# SPDX-License-Identifier: MIT
"""Collect garbage in parts, so that no client waits for a full collection.

A full collection of Python visits every object: with 65535 mappings it takes longer than one client may delay the others, and
with eight such containers a second. So objects that survived a collection are left out of the next ones (gc.freeze()) while
there are many of them. Reference counting still frees them, and no lasting object of ours is part of a cycle. When few are left,
gc.unfreeze() includes them again, so that cycles among them are found in the end.
"""

import contextlib
import gc
from collections.abc import Iterator
from typing import Final

MUCH: Final = 10_000
"""Objects, beyond those of the start, that one collection may visit again: some milliseconds."""


_YOUNG: Final = 700
_MIDDLE: Final = 10
"""Thresholds of Python 3.11 and 3.12; 3.13 would make three times as many objects between two collections."""
_OFTEN: Final = 4
"""Collections of the middle generation per full one; a full one then visits some 28,000 new objects."""


class _Collector:
    def __init__(self) -> None:
        gc.collect()
        gc.freeze()
        self._most = gc.get_freeze_count() + MUCH

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] < len(gc.get_threshold()) - 1:
            return
        if phase == "stop":
            gc.freeze()
        elif gc.get_freeze_count() <= self._most:
            gc.unfreeze()


@contextlib.contextmanager
def collected_in_parts() -> Iterator[None]:
    """Collect garbage in parts while the block lasts."""
    collector = _Collector()
    thresholds = gc.get_threshold()
    gc.callbacks.append(collector)
    gc.set_threshold(_YOUNG, _MIDDLE, _OFTEN)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(collector)
        gc.unfreeze()

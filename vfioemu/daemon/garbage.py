# SPDX-License-Identifier: MIT
"""Garbage collection that does not stop everybody.

Python's full collection looks at every object there is: with 65535 mappings that takes longer than a client may hold up the
others, and with eight containers like that a second. So what has survived one is left out of the next (gc.freeze()) as long as
there is much of it; its references are counted all the same, and nothing of ours that lasts lives in cycles. When there is
little again, all is looked at, and what was left out can go.
"""

import contextlib
import gc
from collections.abc import Iterator
from typing import Final

MUCH: Final = 10_000
"""Objects, beyond those of the start, that one collection may look at again: some milliseconds."""


_YOUNG: Final = 700
_MIDDLE: Final = 10
"""Those of Python 3.11 and 3.12; 3.13 lets three times as many objects be made between two collections."""
_OFTEN: Final = 4
"""Collections of the middle generation for each full one, which looks at what is new since the last: 28,000 objects or so."""


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
    """Have garbage collected like that while the block lasts."""
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

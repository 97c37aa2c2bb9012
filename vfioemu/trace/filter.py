# SPDX-License-Identifier: MIT
"""Select the events to show, as strace's -e does.

An expression is ``NAME=WORDS`` or, for ``trace=``, just the words:

    trace=dma,%dirty,VFIO_SET_IOMMU     classes and calls; %class is never a call
    trace=!info                         all but these
    trace=/BITMAP|FEATURE               names that contain a match of the regular expression
    trace=*_DIRTY_*                     names that match the pattern
    kind=container,group                fds of these kinds
    status=failed                       or successful
    device=dma-engine0                  calls on these devices, and events of them

With several expressions, an event is shown if all of them select it. Words are checked when the filter is made, as a misspelt one
would silently select nothing.
"""

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

from vfioemu.trace import events as e
from vfioemu.uapi import constants as c
from vfioemu.uapi.features import CLASSES, FEATURES, Feature
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.registry import IOCTLS, UNSERVED, lookup

Test: TypeAlias = Callable[[e.AnyEvent], bool]

OTHERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "device": "what devices do by themselves: writes, interrupts, states",
        "file": "open, close, read, write, mmap",
        "ioctl": "every ioctl",
    }
)
"""Classes in addition to the registry's."""
CALLS: Final = (
    "open",
    "close",
    "read",
    "write",
    "pread64",
    "pwrite64",
    "mmap",
    "dirtied",
    "state",
    "interrupt",
    "remark",
    "disconnected",
)
_NAMES: Final = {
    **{row.name.lower(): row.name for row in IOCTLS},
    **{row.name.lower(): row.name for row in UNSERVED},
    **{row.c_name.lower(): row.c_name for row in FEATURES.values()},
    **{name: name for name in CALLS},
}


_ESCAPED: Final = re.compile(r"\\.", re.DOTALL)
_REPEATS: Final = re.compile(r"[*+{(]|(?<!\()\?")
_GROUP_REPEATED: Final = re.compile(r"\)\s*[*+{]|#")  # a comment may stand between the two
_MAX_REPEATS: Final = 4
_MAX_CHOICES: Final = 16


def names(event: e.AnyEvent) -> tuple[str, ...]:
    """Return the names of an event: an ioctl's name, and that of the feature it concerns."""
    match event:
        case e.Ioctl():
            feature = _feature(event)
            return (event.ioctl,) if feature is None else (event.ioctl, feature.c_name)
        case e.Transfer():
            return (event.op,)
        case e.Interrupt():
            return ("interrupt",)
        case _:
            return (type(event).__name__.lower(),)


def classes(event: e.AnyEvent) -> frozenset[str]:
    """Return the classes of an event."""
    match event:
        case e.Ioctl():
            row = lookup(event.kind, event.cmd) if event.kind else None
            found = {"ioctl"} | (row.classes if row is not None else set())
            feature = _feature(event)
            return frozenset(found | (feature.classes if feature is not None else set()))
        case e.Transfer() | e.Mmap():
            about = {FdKind.DEVICE: {"region"}, FdKind.DATA: {"migration"}}
            return frozenset({"file"} | about.get(event.kind or FdKind.CONTAINER, set()))
        case e.Open() | e.Close():
            return frozenset({"file"})
        case e.Dirtied():
            return frozenset({"device", "dirty"})
        case e.Remark():
            return frozenset({"device", "dma"})
        case e.State():
            return frozenset({"device", "migration"})
        case e.Interrupt():
            return frozenset({"device", "irq"})
        case _:
            return frozenset()


def _feature(event: e.Ioctl) -> Feature | None:
    flags = event.arg.get("flags") if isinstance(event.arg, dict) else None
    if event.ioctl != "VFIO_DEVICE_FEATURE" or not isinstance(flags, int):
        return None
    return FEATURES.get(flags & c.VFIO_DEVICE_FEATURE_MASK)


class Filter:
    """The conjunction of filter expressions.

    Raises:
        ValueError: an unknown word; the text lists the known ones.
    """

    def __init__(self, expressions: Iterable[str] = ()) -> None:
        self.expressions = tuple(expressions)
        self._tests = tuple(_parse(expression) for expression in self.expressions)

    def wants(self, event: e.AnyEvent) -> bool:
        """Return True if the event is to be shown; Lost always is."""
        if isinstance(event, e.Lost):
            return True
        return all(test(event) for test in self._tests)


def _parse(expression: str) -> Test:
    key, equals, words = expression.partition("=")
    if not equals or key not in _KEYS:
        if equals and key.isidentifier() and not key.isupper():
            raise ValueError(f"{key!r} in {expression!r} is not one of {', '.join(sorted(_KEYS))}")
        key, words = "trace", expression
    negated = words.startswith("!")
    words = words[1:] if negated else words
    regex = key == "trace" and words.startswith("/")
    parts = [words] if regex else [word for word in words.split(",") if word]
    if not parts:
        raise ValueError(f"{expression!r} selects nothing")
    tests = [_KEYS[key](word) for word in parts]
    return lambda event: any(test(event) for test in tests) != negated


def _word(word: str) -> Test:
    if word in ("all", "%all"):
        return lambda _: True
    if word.startswith("/"):
        pattern = _compiled(word)
        return lambda event: any(pattern.search(name) for name in names(event))
    if any(char in word for char in "*?["):
        folded = word.lower()
        return lambda event: any(fnmatch.fnmatchcase(name.lower(), folded) for name in names(event))
    name = word.removeprefix("%")
    if name in CLASSES or name in OTHERS:
        return lambda event: name in classes(event)
    for candidate in (word.lower(), f"vfio_{word}".lower()):
        if candidate in _NAMES and not word.startswith("%"):
            found = _NAMES[candidate]
            return lambda event: found in names(event)
    known = ", ".join(sorted({*CLASSES, *OTHERS}))
    raise ValueError(f"{word!r} is neither a call nor one of the classes {known}")


def _compiled(word: str) -> re.Pattern[str]:
    """Compile the regular expression after the slash.

    A daemon searches with it for each call of any client, and some expressions take hours on one name: nested repeats, many
    repeats, and many alternatives. Names are short, so such expressions are refused.
    """
    plain = _ESCAPED.sub("", word[1:])
    try:
        pattern = re.compile(word[1:], re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{word[:40]!r} is not a regular expression: {error}") from None
    if _GROUP_REPEATED.search(plain) or len(_REPEATS.findall(plain)) > _MAX_REPEATS:
        raise ValueError(f"{word[:40]!r} repeats a group, has a #, or more than {_MAX_REPEATS} of * + ? {{ (")
    if plain.count("|") > _MAX_CHOICES:
        raise ValueError(f"{word[:40]!r} has more than {_MAX_CHOICES} of |")
    return pattern


def _kind(word: str) -> Test:
    if word not in set(FdKind):
        raise ValueError(f"kind {word!r} is not one of {', '.join(FdKind)}")
    return lambda event: isinstance(event, e.CALLS) and event.kind == word


def _status(word: str) -> Test:
    if word not in ("failed", "successful"):
        raise ValueError(f"status {word!r} is not one of failed, successful")
    return lambda event: isinstance(event, e.CALLS) and (event.errno is not None) == (word == "failed")


def _device(word: str) -> Test:
    def test(event: e.AnyEvent) -> bool:
        if isinstance(event, e.CALLS):
            return event.kind in (FdKind.DEVICE, FdKind.DATA) and event.file == word
        return getattr(event, "device", None) == word

    return test


_KEYS: Final[Mapping[str, Callable[[str], Test]]] = {
    "trace": _word,
    "t": _word,
    "kind": _kind,
    "status": _status,
    "device": _device,
}

# SPDX-License-Identifier: MIT
"""The golden traces, traced: the answers are the same, the text survives JSON, and each refusal says why."""

import functools
import re

import pytest

from tests.conformance.golden import RECORDED, USUAL, chosen, load
from tests.sample import sampled
from tests.trace.recorder import record_all
from vfioemu.conformance import live
from vfioemu.conformance.runner import Options, plan, run
from vfioemu.daemon import serve
from vfioemu.trace import events as e
from vfioemu.trace.options import TraceOptions
from vfioemu.trace.text import Printer
from vfioemu.uapi import structs
from vfioemu.uapi.features import FEATURES
from vfioemu.uapi.payload import Payload

FAMILIES = {folder: sorted(path.stem for path in folder.glob("*.jsonl")) for folder in RECORDED}
ALL = [(folder, family) for folder, families in FAMILIES.items() for family in families]

FIELDS = {
    member.name
    for name in structs.__all__
    if issubclass(getattr(structs, name), Payload)
    for member in getattr(structs, name).MEMBERS
}
THINGS = {
    "container", "group", "device", "fd", "ioctl", "feature", "region", "mapping", "mappings", "driver", "page",
    "read", "write", "type", "function", "INTx", "devices", "name", "dma_entry_limit", "RLIMIT_MEMLOCK", "flags", "offset", "bytes",
}  # fmt: skip
"""What a reason can be about besides a field."""
NAMES = {row.name for row in FEATURES.values()}
VALUE = re.compile(r"\d|'|\b[A-Z][A-Z_]{3,}\b")
"""A number, something quoted, or a name from the header."""


def says_why(why: str | None) -> bool:
    """Whether a reason names what it is about, and a value."""
    words = set(re.findall(r"\w+", why or ""))
    return bool(words & (FIELDS | THINGS | NAMES)) and VALUE.search(why or "") is not None


@pytest.mark.parametrize(
    "why",
    [
        None,
        "",
        "Invalid argument",
        "bad flags",
        "not supported",
        "EINVAL",
        "no",
        "22",
        "the argument is wrong",
    ],
)
def test_what_does_not_say_why(why):
    assert not says_why(why)


@pytest.mark.parametrize("why", ["argsz 31 < 32", "unknown flags 0x8", "group 12 has no device ''"])
def test_what_says_why(why):
    assert says_why(why)


def check(jobs, recorders):
    """Run; returns the scenarios that differ, and the lines whose reason is none."""
    differing = [outcome.scenario for outcome in run(jobs, Options()) if not outcome.passed]
    silent = set()
    for recorder in recorders:
        printer = Printer()
        for event in recorder.events:
            line = printer.line(event)
            assert printer.line(e.decode(e.encode(event))) == line
            said = says_why(event.why) if isinstance(event, e.Ioctl) else len((event.why or "").split()) > 3
            if event.errno is not None and not said:
                silent.add(f"{event.errno}: {event.why}")
            assert (event.errno is None) == (event.why is None)
    return differing, silent


def failing_untraced(jobs):
    return [outcome.scenario for outcome in run(jobs, Options()) if not outcome.passed]


@pytest.mark.parametrize(("folder", "family"), ALL, ids=[f"{folder.name}-{family}" for folder, family in ALL])
def test_a_sample_is_answered_as_without_a_trace_and_says_why(folder, family, monkeypatch):
    jobs = [job for job in plan([load(folder, family)], Options()) if chosen(job.scenario.id)]
    before = failing_untraced(jobs)
    recorders = record_all(monkeypatch)

    differing, silent = check(jobs, recorders)

    assert differing == before
    assert silent == set()
    assert not jobs or any(recorder.events for recorder in recorders)


@pytest.mark.full
@pytest.mark.parametrize(("folder", "family"), ALL, ids=[f"{folder.name}-{family}" for folder, family in ALL])
def test_all_say_why(folder, family, monkeypatch):
    recorders = record_all(monkeypatch)

    assert check(plan([load(folder, family)], Options()), recorders) == ([], set())


@pytest.mark.parametrize(
    ("family", "memory"),
    sampled(
        [
            ("feature", "process_vm"),
            ("dirty_unmap", "ask"),
            ("migration_pairs", "ask"),
            ("unmap", "process_vm"),
        ],
        2,
    ),
)
def test_a_daemon_answers_as_recorded_while_it_traces(family, memory, monkeypatch, tmp_path):
    path = tmp_path / "trace"
    options = TraceOptions(path=path, format="json")
    monkeypatch.setattr(live, "Options", functools.partial(serve.Options, trace=options))
    jobs = plan([load(USUAL, family)], Options())[:40]

    outcomes = list(run(jobs, Options(memory=memory)))

    failed = [outcome for outcome in outcomes if not outcome.passed]
    assert failed == []
    events = [e.decode(line) for line in path.read_bytes().splitlines()]
    refused = [event for event in events if isinstance(event, e.Ioctl) and event.errno]
    assert len({event.pid for event in events if isinstance(event, e.CALLS)}) == len(jobs)
    assert refused
    assert [f"{event.errno}: {event.why}" for event in refused if not says_why(event.why)] == []

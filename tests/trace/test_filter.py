# SPDX-License-Identifier: MIT
"""What is selected, and what is counted."""

import typing

import pytest

from vfioemu.trace import events as e
from vfioemu.trace.filter import Filter, classes, names
from vfioemu.trace.summary import Summary
from vfioemu.uapi import constants as c
from vfioemu.uapi.features import CLASSES, FEATURES
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.registry import IOCTLS

MAP = e.Ioctl(kind=FdKind.CONTAINER, ioctl="VFIO_IOMMU_MAP_DMA", cmd=c.VFIO_IOMMU_MAP_DMA, dur_us=30)
BITMAP = e.Ioctl(
    kind=FdKind.CONTAINER,
    ioctl="VFIO_IOMMU_DIRTY_PAGES",
    cmd=c.VFIO_IOMMU_DIRTY_PAGES,
    ret=-1,
    errno="EINVAL",
    why="size 0",
    dur_us=10,
)
EXTENSION = e.Ioctl(
    kind=FdKind.CONTAINER, ioctl="VFIO_CHECK_EXTENSION", cmd=c.VFIO_CHECK_EXTENSION, arg=3, dur_us=1
)
STATE_CALL = e.Ioctl(
    kind=FdKind.DEVICE,
    file="d0",
    ioctl="VFIO_DEVICE_FEATURE",
    cmd=c.VFIO_DEVICE_FEATURE,
    arg={"argsz": 16, "flags": c.VFIO_DEVICE_FEATURE_SET | 2},
    dur_us=5,
)
LOGGING = e.Ioctl(
    kind=FdKind.DEVICE,
    file="d1",
    ioctl="VFIO_DEVICE_FEATURE",
    cmd=c.VFIO_DEVICE_FEATURE,
    arg={"argsz": 16, "flags": c.VFIO_DEVICE_FEATURE_SET | 7},
)
READ = e.Transfer(op="pread64", kind=FdKind.DEVICE, file="d0", size=4, offset=0, ret=4)
STREAM = e.Transfer(op="read", kind=FdKind.DATA, file="d0", size=4, ret=4)
OPEN = e.Open(path="/dev/vfio/vfio", kind=FdKind.CONTAINER)
DIRTIED = e.Dirtied(device="d1", count=1, ranges=[(0, 1)])
ARC = e.State(device="d0", old=2, new=6)
IRQ = e.Interrupt(device="d0", index=1, vector=0, eventfd=True)
GONE = e.Disconnected(pid=1)
LOST = e.Lost(count=2)
ALL: dict[str, e.AnyEvent] = {
    name: value
    for name, value in globals().items()
    if isinstance(value, typing.get_args(e.AnyEvent)) and name != "LOST"
}


@pytest.mark.parametrize(
    ("expressions", "selected"),
    [
        ([], set(ALL)),
        (["all"], set(ALL)),
        (["dma"], {"MAP"}),
        (["trace=dma,dirty"], {"MAP", "BITMAP", "LOGGING", "DIRTIED"}),
        (["%dirty", "!device"], {"BITMAP", "LOGGING"}),
        (["migration"], {"STATE_CALL", "STREAM", "ARC"}),
        (["region"], {"READ"}),
        (["irq"], {"IRQ"}),
        (["feature"], {"STATE_CALL", "LOGGING"}),
        (["file"], {"READ", "STREAM", "OPEN"}),
        (["device"], {"DIRTIED", "ARC", "IRQ"}),
        (["ioctl"], {"MAP", "BITMAP", "EXTENSION", "STATE_CALL", "LOGGING"}),
        (["!ioctl"], set(ALL) - {"MAP", "BITMAP", "EXTENSION", "STATE_CALL", "LOGGING"}),
        (["VFIO_IOMMU_MAP_DMA"], {"MAP"}),
        (["iommu_map_dma,check_extension"], {"MAP", "EXTENSION"}),
        (["VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE"], {"STATE_CALL"}),
        (["*_DMA*"], {"MAP", "LOGGING"}),
        (["/dirty_pages|extension$"], {"BITMAP", "EXTENSION"}),
        (["pread64,open"], {"READ", "OPEN"}),
        (["state,interrupt"], {"ARC", "IRQ"}),
        (["disconnected"], {"GONE"}),
        (["kind=container"], {"MAP", "BITMAP", "EXTENSION", "OPEN"}),
        (
            ["kind=!container,device"],
            set(ALL) - {"MAP", "BITMAP", "EXTENSION", "OPEN", "READ", "STATE_CALL", "LOGGING"},
        ),
        (["status=failed"], {"BITMAP"}),
        (["status=successful", "kind=container"], {"MAP", "EXTENSION", "OPEN"}),
        (["device=d0"], {"STATE_CALL", "READ", "STREAM", "ARC", "IRQ"}),
        (["device=d1", "dirty"], {"LOGGING", "DIRTIED"}),
    ],
)
def test_selected(expressions, selected):
    wanted = Filter(expressions)

    assert {name for name, event in ALL.items() if wanted.wants(event)} == selected


@pytest.mark.parametrize("expressions", [["dma"], ["status=failed"], ["kind=group"], ["device=x"]])
def test_that_something_was_lost_is_always_shown(expressions):
    assert Filter(expressions).wants(LOST)


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("dmaa", "'dmaa' is neither a call nor one of the classes device, dirty, dma,"),
        ("%VFIO_SET_IOMMU", "is neither a call nor one of the classes"),
        ("kind=table", "kind 'table' is not one of container"),
        ("status=meh", "not one of failed, successful"),
        ("colour=red", "'colour' in 'colour=red' is not one of device, kind, status"),
        ("/(", "not a regular expression"),
        ("/" + "(" * 20_000, "not a regular expression"),
        ("/a{99999999999999999999}", "not a regular expression"),
        ("/([A-Z_]+)+!", "repeats a group"),
        ("/([A-Z_]+){9}!", "repeats a group"),
        ("/(?x)([A-Z_]+)#\n+!", "repeats a group"),
        ("/" + "(.|.)" * 40 + "!", "more than 4 of"),
        ("/(" + "A|" * 17 + ")(" + "A|" * 17 + ")!", "more than 16 of"),
        ("/" + "a?" * 30, "more than 4"),
        ("/" + ".*" * 30, "more than 4"),
        ("", "selects nothing"),
        ("!", "selects nothing"),
        ("trace=,", "selects nothing"),
    ],
)
def test_words_that_mean_nothing(expression, why):
    with pytest.raises(ValueError, match=why.replace("(", r"\(")):
        Filter([expression])


def test_each_row_is_in_some_class_and_each_class_has_a_row():
    used = set()
    for row in IOCTLS:
        assert row.classes, row.name
        used |= row.classes
    for feature in FEATURES.values():
        used |= feature.classes

    assert used == set(CLASSES)


def test_events_have_names_and_classes():
    for event in (*ALL.values(), LOST):
        assert all(names(event))
        assert classes(event) is not None


def test_a_summary_is_strace_s_table():
    summary = Summary()
    for event in (MAP, MAP, BITMAP, STATE_CALL, READ, DIRTIED, GONE):
        summary.add(event)

    assert (
        "\n".join(line.rstrip() for line in summary.lines())
        == """\
% time     seconds  usecs/call     calls    errors ioctl
------ ----------- ----------- --------- --------- --------------------------------
 80.00    0.000060          30         2           VFIO_IOMMU_MAP_DMA
 13.33    0.000010          10         1         1 VFIO_IOMMU_DIRTY_PAGES
  6.67    0.000005           5         1           VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
  0.00    0.000000           0         1           pread64
------ ----------- ----------- --------- --------- --------------------------------
100.00    0.000075          15         5         1 total"""
    )
    assert summary.json()[0] == {"ioctl": "VFIO_IOMMU_MAP_DMA", "calls": 2, "errors": 0, "usecs": 60}


def test_an_empty_summary():
    summary = Summary()
    summary.add(LOST)

    assert summary.lines()[-1] == "2 events were lost: the reader was too slow"
    assert summary.json() == []

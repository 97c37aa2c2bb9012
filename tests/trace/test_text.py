# SPDX-License-Identifier: MIT
"""The grammar: strace's, to the character. These lines are what users grep for."""

import struct

import pytest

from vfioemu.trace import calls
from vfioemu.trace import events as e
from vfioemu.trace.decode import Capture
from vfioemu.trace.names import Style
from vfioemu.trace.text import Look, Printer
from vfioemu.uapi import constants as c
from vfioemu.uapi import structs as s
from vfioemu.uapi.kinds import FdKind

A = 0x7F3C40000000
U32 = struct.Struct("<I")


def ioctl(kind, cmd, argument=0, read=b"", written=(), result=0, why="", fds=(), more=(), **rest):
    capture = Capture()
    if read:
        capture.read.put(argument, read)
    for address, data in more:
        capture.read.put(address, data)
    for address, data in written:
        capture.written.put(address, data)
    capture.fds.update(fds)
    return calls.ioctl(kind, cmd, argument, capture, result, why, **rest)


def bitmap_argument():
    get = s.IommuType1DirtyBitmapGet(
        iova=0, size=0x80000000, bitmap=s.Bitmap(pgsize=4096, size=65536, data=0x7F3C3FF00000)
    )
    return s.IommuType1DirtyBitmap(argsz=48, flags=4).build() + get.build()


def bits(*ranges):
    value = sum(((1 << size // 4096) - 1) << start // 4096 for start, size in ranges)
    return value.to_bytes(65536, "little")


REGION_CAPS = (
    s.RegionInfo(argsz=96, flags=15, index=0, cap_offset=32, size=0x20000).build()
    + s.RegionInfoCapSparseMmap(header=s.InfoCapHeader(id=1, version=1, next=64), nr_areas=1).build()
    + s.RegionSparseMmapArea(offset=0x1000, size=0x3000).build()
    + s.InfoCapHeader(id=3, version=1, next=72).build()
    + s.RegionInfoCapType(header=s.InfoCapHeader(id=2, version=1), type=3, subtype=1).build()
    + s.InfoCapHeader(id=9, version=2).build()
)

LINES = [
    (ioctl(FdKind.CONTAINER, c.VFIO_GET_API_VERSION, fd=3), "ioctl(3<container>, VFIO_GET_API_VERSION) = 0"),
    (
        ioctl(FdKind.CONTAINER, c.VFIO_CHECK_EXTENSION, 10, result=1, fd=3),
        "ioctl(3<container>, VFIO_CHECK_EXTENSION, VFIO_UPDATE_VADDR) = 1",
    ),
    (
        ioctl(FdKind.CONTAINER, c.VFIO_CHECK_EXTENSION, 4711, fd=3),
        "ioctl(3<container>, VFIO_CHECK_EXTENSION, 4711) = 0",
    ),
    (
        ioctl(
            FdKind.GROUP,
            c.VFIO_GROUP_GET_STATUS,
            A,
            s.GroupStatus(flags=0xCCCCCCCC).build(),
            [(A, s.GroupStatus(flags=1).build())],
            fd=3,
            file="1",
        ),
        "ioctl(3<group 1>, VFIO_GROUP_GET_STATUS, {argsz=8} => {flags=VIABLE}) = 0",
    ),
    (
        ioctl(
            FdKind.GROUP, c.VFIO_GROUP_SET_CONTAINER, A, U32.pack(4), fds={4: "container"}, fd=3, file="1"
        ),
        "ioctl(3<group 1>, VFIO_GROUP_SET_CONTAINER, [4<container>]) = 0",
    ),
    (
        ioctl(
            FdKind.GROUP,
            c.VFIO_GROUP_GET_DEVICE_FD,
            A,
            b"0000:00:01.0\0",
            result=5,
            fds={5: "dma-engine0"},
            fd=3,
            file="1",
        ),
        'ioctl(3<group 1>, VFIO_GROUP_GET_DEVICE_FD, "0000:00:01.0") = 5<dma-engine0>',
    ),
    (
        ioctl(
            FdKind.CONTAINER,
            c.VFIO_IOMMU_MAP_DMA,
            A,
            s.IommuType1DmaMap(flags=3, vaddr=A, iova=0, size=0x80000000).build(),
            fd=20,
        ),
        "ioctl(20<container>, VFIO_IOMMU_MAP_DMA, {argsz=32, flags=READ|WRITE, vaddr=0x7f3c40000000, iova=0, "
        "size=0x80000000}) = 0",
    ),
    (
        ioctl(
            FdKind.CONTAINER,
            c.VFIO_IOMMU_DIRTY_PAGES,
            A,
            bitmap_argument(),
            [(0x7F3C3FF00000, bits((0x1000, 0x3000), (0x9000, 0x1000), (0x1_0000, 1033 * 4096)))],
            fd=20,
        ),
        "ioctl(20<container>, VFIO_IOMMU_DIRTY_PAGES, {argsz=48, flags=GET_BITMAP, {iova=0, size=0x80000000, "
        "bitmap={pgsize=4096, size=65536, data=0x7f3c3ff00000}}} => [1037 dirty, 3 ranges: 0x1000+0x3000, "
        "0x9000+0x1000, 0x10000+0x409000]) = 0",
    ),
    (
        ioctl(
            FdKind.CONTAINER,
            c.VFIO_IOMMU_DIRTY_PAGES,
            A,
            bitmap_argument(),
            [(0x7F3C3FF00000, bytes(65536))],
            fd=20,
        ),
        "ioctl(20<container>, VFIO_IOMMU_DIRTY_PAGES, {argsz=48, flags=GET_BITMAP, {iova=0, size=0x80000000, "
        "bitmap={pgsize=4096, size=65536, data=0x7f3c3ff00000}}} => [0 dirty]) = 0",
    ),
    (
        ioctl(
            FdKind.CONTAINER,
            c.VFIO_IOMMU_UNMAP_DMA,
            A,
            s.IommuType1DmaUnmap(argsz=48, flags=1, iova=0x10000, size=0x3000).build()
            + s.Bitmap(pgsize=4096, size=8, data=0x5000).build(),
            [
                (0x5000, b"\x05" + bytes(7)),
                (A, s.IommuType1DmaUnmap(argsz=48, flags=1, iova=0x10000, size=0x2000).build()),
            ],
            fd=20,
        ),
        "ioctl(20<container>, VFIO_IOMMU_UNMAP_DMA, {argsz=48, flags=GET_DIRTY_BITMAP, iova=0x10000, size=0x3000, "
        "{pgsize=4096, size=8, data=0x5000}} => {size=0x2000, {data=[2 dirty, 2 ranges: 0x10000+0x1000, "
        "0x12000+0x1000]}}) = 0",
    ),
    (
        ioctl(
            FdKind.CONTAINER,
            c.VFIO_IOMMU_MAP_DMA,
            A,
            s.IommuType1DmaMap(flags=0xF1).build(),
            result=-22,
            why="unknown flags 0xf0",
            fd=20,
        ),
        "ioctl(20<container>, VFIO_IOMMU_MAP_DMA, {argsz=32, flags=READ|0xf0 /* VFIO_DMA_MAP_FLAG_??? */, vaddr=0, "
        "iova=0, size=0}) = -1 EINVAL (Invalid argument) /* unknown flags 0xf0 */",
    ),
    (
        ioctl(FdKind.CONTAINER, c.VFIO_IOMMU_MAP_DMA, 0, result=-14, why="cannot read 0+0x20", fd=20),
        "ioctl(20<container>, VFIO_IOMMU_MAP_DMA, 0) = -1 EFAULT (Bad address) /* cannot read 0+0x20 */",
    ),
    (
        ioctl(
            FdKind.DEVICE,
            c.VFIO_DEVICE_FEATURE,
            A,
            s.DeviceFeature(argsz=32, flags=c.VFIO_DEVICE_FEATURE_SET | 6).build()
            + s.DeviceFeatureDmaLoggingControl(page_size=3000, num_ranges=1, ranges=0x6000).build(),
            more=[(0x6000, s.DeviceFeatureDmaLoggingRange(iova=0, length=0x80000000).build())],
            result=-22,
            why="page_size 3000 is not a power of two",
            fd=24,
            file="dma-engine0",
        ),
        "ioctl(24<dma-engine0>, VFIO_DEVICE_FEATURE, {argsz=32, flags=SET|DMA_LOGGING_START, {page_size=3000, "
        "num_ranges=1, ranges=[{iova=0, length=0x80000000}]}}) = -1 EINVAL (Invalid argument) "
        "/* page_size 3000 is not a power of two */",
    ),
    (
        ioctl(
            FdKind.DEVICE,
            c.VFIO_DEVICE_FEATURE,
            A,
            s.DeviceFeature(argsz=16, flags=c.VFIO_DEVICE_FEATURE_SET | 2).build()
            + s.DeviceFeatureMigState(device_state=6).build(),
            [(A + 8, s.DeviceFeatureMigState(device_state=6, data_fd=9).build())],
            fds={9: "dma-engine0 data"},
            fd=24,
            file="dma-engine0",
        ),
        "ioctl(24<dma-engine0>, VFIO_DEVICE_FEATURE, {argsz=16, flags=SET|MIG_DEVICE_STATE, "
        "{device_state=PRE_COPY, data_fd=-1}} => {data_fd=9<dma-engine0 data>}) = 0",
    ),
    (
        ioctl(
            FdKind.DEVICE,
            c.VFIO_DEVICE_FEATURE,
            A,
            s.DeviceFeature(argsz=40, flags=c.VFIO_DEVICE_FEATURE_GET | 8).build()
            + s.DeviceFeatureDmaLoggingReport(
                iova=0x1000, length=0x8000, page_size=4096, bitmap=0x5000
            ).build(),
            [(0x5000, b"\x81" + bytes(7))],
            fd=24,
            file="d",
        ),
        "ioctl(24<d>, VFIO_DEVICE_FEATURE, {argsz=40, flags=GET|DMA_LOGGING_REPORT, {iova=0x1000, length=0x8000, "
        "page_size=4096, bitmap=0x5000}} => [2 dirty, 2 ranges: 0x1000+0x1000, 0x8000+0x1000]) = 0",
    ),
    (
        ioctl(
            FdKind.DEVICE,
            c.VFIO_DEVICE_SET_IRQS,
            A,
            s.IrqSet(argsz=24, flags=0x24, index=2, start=0, count=1).build() + U32.pack(31),
            fds={31: "eventfd"},
            fd=24,
            file="dma-engine0",
        ),
        "ioctl(24<dma-engine0>, VFIO_DEVICE_SET_IRQS, {argsz=24, flags=DATA_EVENTFD|ACTION_TRIGGER, "
        "index=VFIO_PCI_MSIX_IRQ_INDEX, start=0, count=1, data=[31<eventfd>]}) = 0",
    ),
    (
        ioctl(
            FdKind.DEVICE,
            c.VFIO_DEVICE_SET_IRQS,
            A,
            s.IrqSet(argsz=30, flags=0x22, index=7, start=0, count=10).build() + bytes(range(10)),
            fd=24,
            file="d",
        ),
        "ioctl(24<d>, VFIO_DEVICE_SET_IRQS, {argsz=30, flags=DATA_BOOL|ACTION_TRIGGER, index=7, start=0, count=10, "
        "data=[0, 1, 2, 3, 4, 5, 6, 7, ...]}) = 0",
    ),
    (
        ioctl(
            FdKind.DEVICE,
            c.VFIO_DEVICE_GET_REGION_INFO,
            A,
            s.RegionInfo(argsz=96, index=0).build(),
            [(A, REGION_CAPS)],
            fd=24,
            file="d",
        ),
        "ioctl(24<d>, VFIO_DEVICE_GET_REGION_INFO, {argsz=96, index=VFIO_PCI_BAR0_REGION_INDEX} => "
        "{flags=READ|WRITE|MMAP|CAPS, cap_offset=32, size=0x20000, offset=0, caps=[{id=SPARSE_MMAP, version=1, "
        "nr_areas=1, areas=[{offset=0x1000, size=0x3000}]}, {id=MSIX_MAPPABLE, version=1}, {id=TYPE, version=1, "
        "type=MIGRATION_DEPRECATED, subtype=1}]}) = 0",
    ),
    (
        ioctl(FdKind.CONTAINER, 0x3BF3, 0, result=-25, why="no ioctl 0x3bf3", fd=20),
        "ioctl(20<container>, _IOC(_IOC_NONE, 0x3b, 0xf3, 0), 0) = -1 ENOTTY (Inappropriate ioctl for device) "
        "/* no ioctl 0x3bf3 */",
    ),
    (
        e.Transfer(op="pread64", kind=FdKind.DEVICE, fd=24, file="d", size=4, offset=(7 << 40) + 4, ret=4,
                   data="\x06\x04\x10\0", region=(7, 4)),
        'pread64(24<d>, "\\6\\4\\20\\0", 4, 0x70000000004 /* VFIO_PCI_CONFIG_REGION_INDEX+0x4 */) = 4',
    ),
    (
        e.Transfer(op="read", kind=FdKind.DATA, fd=9, file="d", size=4096, ret=4096, data="VFE" * 30),
        f'read(9<d data>, "{("VFE" * 30)[:32]}"..., 4096) = 4096',
    ),
    (
        e.Transfer(op="read", kind=FdKind.DATA, fd=9, file="d", size=4096, ret=-1, errno="ENOMSG", why="later"),
        "read(9<d data>, ..., 4096) = -1 ENOMSG (No message of desired type) /* later */",
    ),
    (
        e.Mmap(kind=FdKind.DEVICE, fd=24, file="d", size=4096, prot=3, shared=True, offset=0, region=(0, 0)),
        "mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 24<d>, 0 /* VFIO_PCI_BAR0_REGION_INDEX+0 */) = 0",
    ),
    (e.Open(path="/dev/vfio/12", kind=FdKind.GROUP, file="12"), 'open("/dev/vfio/12") = ?<group 12>'),
    (
        e.Open(path="/dev/vfio/99", ret=-1, errno="ENOENT", why="there is no /dev/vfio/99"),
        'open("/dev/vfio/99") = -1 ENOENT (No such file or directory) /* there is no /dev/vfio/99 */',
    ),
    (e.Close(kind=FdKind.CONTAINER, fd=20, mappings=3), "close(20<container>) = 0 /* 3 mappings dropped */"),
    (e.Close(kind=FdKind.CONTAINER), "close(?<container>) = 0"),
    (
        e.Dirtied(device="dma-engine0", count=1, ranges=[(0x9000, 0x1000)], how="pinned"),
        "--- dma-engine0 dirtied 0x9000+0x1000 (pinned) ---",
    ),
    (
        e.Dirtied(device="d", count=256, ranges=[(0x1000, 32)] * 9),
        f"--- d dirtied {', '.join(['0x1000+0x20'] * 8)}, ... 256 in all ---",
    ),
    (e.State(device="dma-engine0", old=2, new=6), "--- dma-engine0 state RUNNING -> PRE_COPY ---"),
    (
        e.Interrupt(device="d", index=1, vector=0, eventfd=False),
        "--- d interrupt VFIO_PCI_MSI_IRQ_INDEX[0] (no eventfd) ---",
    ),
    (
        e.Disconnected(pid=4711, comm="qemu-system-x86", mappings=3),
        "+++ client 4711 (qemu-system-x86) disconnected, 3 mappings dropped +++",
    ),
    (e.Lost(count=12), "--- 12 events lost: the reader was too slow ---"),
]  # fmt: skip


@pytest.mark.parametrize(("event", "line"), LINES, ids=[line[:60] for _, line in LINES])
def test_line(event, line):
    assert Printer().line(event) == line
    assert Printer().line(e.decode(e.encode(event))) == line


MAP = LINES[6][0]


def test_styles():
    assert (
        Printer(Look(Style.VERBOSE))
        .line(MAP)
        .startswith(
            "ioctl(20<container>, VFIO_IOMMU_MAP_DMA, {argsz=32, flags=VFIO_DMA_MAP_FLAG_READ|VFIO_DMA_MAP_FLAG_WRITE,"
        )
    )
    assert Printer(Look(Style.RAW)).line(MAP).startswith("ioctl(20<container>, 0x3b71, {argsz=32, flags=0x3,")


def test_times():
    event = ioctl(FdKind.CONTAINER, 0x3B64, fd=3, t=1700000000.25, dur_us=41)

    line = Printer(Look(duration=True, clock=True)).line(event)

    assert line == "1700000000.250000 ioctl(3<container>, VFIO_GET_API_VERSION) = 0 <0.000041>"


def test_pids_appear_with_the_second_process():
    printer = Printer()
    first, second = (ioctl(FdKind.CONTAINER, 0x3B64, fd=3, pid=pid) for pid in (10, 11))

    shown = [printer.line(event)[:9] for event in (first, first, second, first)]

    assert shown == ["ioctl(3<c", "ioctl(3<c", "[pid 11] ", "[pid 10] "]


def test_longer_arrays_with_s():
    event = next(event for event, line in LINES if "DATA_BOOL" in line)
    capture_all = ioctl(
        FdKind.DEVICE,
        c.VFIO_DEVICE_SET_IRQS,
        A,
        s.IrqSet(argsz=30, flags=0x22, index=7, count=10).build() + bytes(range(10)),
        limit=20,
    )

    assert "data=[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}" in Printer(Look(limit=20)).line(capture_all)
    assert "data=[0, 1, 2, ...]}" in Printer(Look(limit=3)).line(capture_all)
    assert "data=[0, 1, 2, ...]}" in Printer(Look(limit=3)).line(event)


def test_what_a_client_names_cannot_break_a_line():
    evil = "x */ = 0\n\x1b[31m"
    event = ioctl(
        FdKind.GROUP,
        c.VFIO_GROUP_GET_DEVICE_FD,
        A,
        evil.encode() + b"\0",
        result=-19,
        why=f"no device {evil}",
        file=evil,
    )
    line = Printer().line(event)

    assert line.isprintable()
    assert line.replace('"x */', "").count("*/") == 1  # a string is in quotes


def test_what_get_gives_is_not_shown_as_asked():
    header = s.DeviceFeature(argsz=16, flags=c.VFIO_DEVICE_FEATURE_GET | 2).build()
    event = ioctl(
        FdKind.DEVICE,
        c.VFIO_DEVICE_FEATURE,
        A,
        header + s.DeviceFeatureMigState(device_state=0, data_fd=0).build(),
        [(A + 8, s.DeviceFeatureMigState(device_state=2).build())],
        fd=24,
        file="d",
    )

    assert Printer().line(event) == (
        "ioctl(24<d>, VFIO_DEVICE_FEATURE, {argsz=16, flags=GET|MIG_DEVICE_STATE} => "
        "{device_state=RUNNING, data_fd=-1}) = 0"
    )


@pytest.mark.parametrize(("result", "shown"), [(0, " => [0 dirty]"), (-22, "")])
def test_a_bitmap_in_which_nothing_was_written_is_empty_if_the_call_worked(result, shown):
    event = ioctl(FdKind.CONTAINER, c.VFIO_IOMMU_DIRTY_PAGES, A, bitmap_argument(), result=result, fd=20)

    assert f"data=0x7f3c3ff00000}}}}}}{shown}) = " in Printer().line(event)

# SPDX-License-Identifier: MIT
"""Mistakes to plant into the core, of the kind that one makes: what cannot find these finds nothing."""

import errno
import inspect
from collections.abc import Callable
from dataclasses import replace

from tests.native.mutants import MUTANTS
from vfioemu.core.base.effects import PinUser, read_user
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.limits import PIN_PAGES_MAX
from vfioemu.core.files import dma_logging
from vfioemu.core.memory.accounting import Accounting
from vfioemu.core.memory.held_pins import HeldPins
from vfioemu.core.model import irqs
from vfioemu.core.objects import device, migration
from vfioemu.core.objects.container import Container
from vfioemu.core.objects.group import Group
from vfioemu.core.objects.migration_v1 import RegionsWithMigration
from vfioemu.core.type1 import TABLE, Type1, attach, dirty_pages, external, state, unmap_dma
from vfioemu.devices.oracle.dirty_log import DirtyLog
from vfioemu.io.shim.connection import Connection
from vfioemu.uapi.constants import VFIO_IOMMU_DIRTY_PAGES
from vfioemu.wire import messages


def _nothing(*args, **kwargs):
    pass


def _yields_nothing(*args):
    yield from ()


def unpinned_pages_stay_pinned(patch):
    patch.setattr(external, "_unpin", _nothing)


def pinned_pages_are_reported_only_once(patch):
    patch.setattr(state.Iommu, "populate", _nothing)


def dma_writes_are_not_marked(patch):
    patch.setattr(state.Iommu, "mark", _nothing)


def dma_marks_one_page_too_few(patch):
    def mark(iommu, dma, offset, count):
        if dma.bitmap is not None:
            first = offset >> 12
            dma.bitmap.mark_range(first, max(1, (offset + count - 1 >> 12) - first))

    patch.setattr(state.Iommu, "mark", mark)


def bisected_mappings_are_accepted(patch):
    patch.setattr(dirty_pages, "refuse_bisecting", _nothing)
    patch.setattr(unmap_dma, "refuse_bisecting", _nothing)


def dirty_bits_have_no_residue(patch):
    patch.setattr(dirty_pages, "_merge_recorded", dirty_pages._merge_clean)


def reserved_iovas_are_accepted(patch):
    patch.setattr(state.Iommu, "iova_valid", lambda *_: True)


def overlaps_have_another_errno(patch):
    set_up = state.Iommu.__init__

    def __init__(self, profile, *args, **kwargs):
        set_up(self, replace(profile, map_overlap_errno=errno.EBUSY), *args, **kwargs)

    patch.setattr(state.Iommu, "__init__", __init__)


def locked_memory_is_not_given_back(patch):
    charge = Accounting.charge
    patch.setattr(Accounting, "charge", lambda self, dma, n: charge(self, dma, n) if n > 0 else None)


def groups_are_opened_twice(patch):
    def open_again(self):
        self.is_open = False
        return (yield from open_once(self))

    open_once = Group.open
    patch.setattr(Group, "open", open_again)


def groups_stay_in_their_container(patch):
    patch.setattr(Container, "detach", _yields_nothing)


def hot_added_groups_replay_nothing(patch):
    patch.setattr(attach, "_replay", _yields_nothing)


def a_leaving_group_dirties_nothing(patch):
    detach = attach.detach_group

    def silently(iommu, group):
        tracking, iommu.dirty_page_tracking = iommu.dirty_page_tracking, False
        yield from detach(iommu, group)
        iommu.dirty_page_tracking = tracking

    patch.setattr(Type1, "detach_group", silently)


def eventfds_are_never_put(patch):
    def drop(self, index=None):
        for key in [key for key in self._triggers if index is None or key[0] == index]:
            del self._triggers[key]

    patch.setattr(irqs.IrqTable, "drop", drop)


def errno_order_is_swapped(patch):
    """EFAULT before EACCES: the argument of DIRTY_PAGES is read before type1 v1 is refused."""
    dirty = dirty_pages.dirty_pages

    def read_first(iommu, caller, arg):
        yield from read_user(arg, 8)
        return (yield from dirty(iommu, caller, arg))

    patch.setitem(TABLE, VFIO_IOMMU_DIRTY_PAGES, read_first)


def one_page_too_many_is_pinned(patch):
    patch.setattr(device, "PIN_PAGES_MAX", PIN_PAGES_MAX + 1)


def the_lock_is_dropped_while_pages_are_pinned(patch):
    """The container's lock is not held over the yield of PinUser: a mapping may go meanwhile."""
    pin_run = external._pin_run

    def dropped(iommu, *arguments):
        steps = pin_run(iommu, *arguments)
        try:
            effect = next(steps)
            while True:
                if isinstance(effect, PinUser):
                    iommu.lock.release()
                    result = yield effect
                    yield from iommu.hold()
                else:
                    result = yield effect
                effect = steps.send(result)
        except StopIteration as stop:
            return stop.value

    patch.setattr(external, "_pin_run", dropped)


def a_lock_is_kept_after_an_error(patch):
    read = external.rw_read

    def rw_read(iommu, *arguments):
        try:
            return (yield from read(iommu, *arguments))
        except IoctlError:
            iommu.lock.acquire(_nothing)
            raise

    patch.setattr(Type1, "rw_read", rw_read)


def the_state_after_a_failed_arc_is_the_wanted_one(patch):
    arc = migration.Migration._arc

    def failing(self, target):
        try:
            return (yield from arc(self, target))
        except IoctlError:
            self.state = target
            raise

    patch.setattr(migration.Migration, "_arc", failing)


def a_closed_device_keeps_a_pin(patch):
    take = HeldPins.take_range

    def all_but_one(self, first, last):
        runs = take(self, first, last)
        return [
            (iova, npages - 1) if number == 0 else (iova, npages)
            for number, (iova, npages) in enumerate(runs)
        ]

    patch.setattr(HeldPins, "take_range", all_but_one)


def a_report_loses_its_first_page(patch):
    report = DirtyLog.report

    def hasty(self, iova, length, sink):
        self._pages.take(iova // 4096, iova // 4096)
        report(self, iova, length, sink)

    patch.setattr(DirtyLog, "report", hasty)


def a_data_fd_lives_on_after_its_session(patch):
    patch.setattr(migration.Session, "refuse_ended", _nothing)


def a_refusal_has_an_errno_of_its_own(patch):
    def take(number):
        yield from ()
        raise IoctlError(errno.EPERM, "an errno that SET_IRQS does not have")

    patch.setattr(irqs, "take_eventfd", take)


def a_second_logged_range_crashes(patch):
    check = dma_logging._check_range
    patch.setattr(
        dma_logging,
        "_check_range",
        lambda asked, page_size, earlier: [check(asked, page_size, earlier)][len(earlier)],
    )


def a_piece_of_v1_is_one_byte_short(patch):
    tell = RegionsWithMigration._tell

    def short(self, stream):
        return max(0, (yield from tell(self, stream)) - 1)

    patch.setattr(RegionsWithMigration, "_tell", short)


def replies_are_sent_twice(patch):
    send = Connection.send_nowait

    def twice(self, header, data=None, fd=-1):
        if messages.decode(header).type == messages.REPLY:
            send(self, header, data, fd)
        return send(self, header, data, fd)

    patch.setattr(Connection, "send_nowait", twice)


SEEN_BY_CALLS: list[Callable] = [
    unpinned_pages_stay_pinned,
    pinned_pages_are_reported_only_once,
    dma_writes_are_not_marked,
    dma_marks_one_page_too_few,
    bisected_mappings_are_accepted,
    dirty_bits_have_no_residue,
    reserved_iovas_are_accepted,
    overlaps_have_another_errno,
    locked_memory_is_not_given_back,
    groups_are_opened_twice,
    groups_stay_in_their_container,
    hot_added_groups_replay_nothing,
    a_leaving_group_dirties_nothing,
]
"""What a sequence of well-formed calls can show."""

SEEN_BY_THE_FUZZER: list[Callable] = [*SEEN_BY_CALLS, eventfds_are_never_put, errno_order_is_swapped]

SEEN_BY_PROGRAMS: list[Callable] = [
    one_page_too_many_is_pinned,
    the_lock_is_dropped_while_pages_are_pinned,
    a_lock_is_kept_after_an_error,
    the_state_after_a_failed_arc_is_the_wanted_one,
    a_closed_device_keeps_a_pin,
    a_report_loses_its_first_page,
    a_data_fd_lives_on_after_its_session,
    a_refusal_has_an_errno_of_its_own,
    a_second_logged_range_crashes,
    dma_marks_one_page_too_few,
]
"""What the engine "guided" finds, from an empty corpus."""

SEEN_BY_A_TEST: dict[Callable, str] = {
    a_piece_of_v1_is_one_byte_short: "tests/system/property/test_v1_pieces.py",
    replies_are_sent_twice: "tests/system/property/test_replies.py",
}
"""What a test of its own finds."""


class Patch:
    """What monkeypatch is to a test, for a process of its own."""

    @staticmethod
    def setattr(target, name, value):
        """Set it for good."""
        setattr(target, name, value)


def by_name(name):
    """One of the mistakes above."""
    return globals()[name]


def summary(plant):
    """What it is, in a few words."""
    return (inspect.getdoc(plant) or plant.__name__.replace("_", " ")).splitlines()[0].rstrip(".")


def table():
    """All of them, as docs/testing.md has it: what is wrong, and what finds it."""
    rows = [
        (summary(plant), "walk, and the state machine of `tests/system/property/test_world.py`")
        for plant in SEEN_BY_CALLS
    ]
    rows += [(summary(plant), "walk") for plant in SEEN_BY_THE_FUZZER if plant not in SEEN_BY_CALLS]
    rows += [(summary(plant), "guided") for plant in SEEN_BY_PROGRAMS if plant not in SEEN_BY_CALLS]
    rows += [(f"C: {mutant.what}", f"kernel, `csrc/fuzz_{mutant.target}.c`") for mutant in MUTANTS]
    rows += [(summary(plant), f"`{test}`") for plant, test in SEEN_BY_A_TEST.items()]
    return "\n".join(f"| {what} | {where} |" for what, where in rows)

# SPDX-License-Identifier: MIT
"""Config space as user space sees it: drivers/vfio/pci/vfio_pci_config.c.

When a function is opened its header and the capabilities that vfio-pci knows are copied; what is unknown is taken out
of the chains. From then on each access is cut into aligned pieces of up to four bytes within one capability, and the
permission tables say for every bit whether the copy or the hardware answers, and who gets what is written.
"""

import errno
from typing import Final, Protocol

from vfioemu.core.base.effects import Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.devices.pci.hardware import registers as r
from vfioemu.devices.pci.hardware.config import ConfigSpace, bar_flags, rom_size
from vfioemu.devices.pci.hardware.description import Function
from vfioemu.devices.pci.vfio_pci import permissions
from vfioemu.devices.pci.vfio_pci.lengths import capability_length, extended_length
from vfioemu.devices.pci.vfio_pci.permissions import Permissions, Reads, Writes

_BASIC: Final = 0
_INVALID: Final = 0xFF
_MEMORY_OR_IO: Final = r.COMMAND_MEMORY | r.COMMAND_IO
_NEXT_MASK: Final = 0xFFC00000


class Driver(Protocol):
    """The reactions of vfio-pci to a write to config space."""

    @property
    def msi_active(self) -> bool:
        """MSI is enabled by SET_IRQS."""

    @property
    def msi_qmax(self) -> int:
        """log2 of the MSI vectors that SET_IRQS has enabled, 0 before."""

    def command_written(self) -> Steps[None]:
        """Adapt to COMMAND, which may have turned decoding on or off."""

    def set_virtual_intx_disable(self, disabled: bool) -> Steps[None]:
        """Mask or unmask INTx, since the guest's INTx disable bit was written."""

    def messages_changed(self) -> Steps[None]:
        """Deliver messages: MSI was enabled, or some of it unmasked, maybe."""

    def set_power_state(self, state: int) -> Steps[None]:
        """Put the function into D0 (0) to D3hot (3)."""

    def try_reset_function(self) -> Steps[None]:
        """Reset the function, as the guest asks for a function level reset."""


class VirtualConfig:
    """The config space of an open function.

    Args:
        hardware: what is below.
        function: what it is.
        driver: what is told of writes.

    Attributes:
        copy: vfio-pci's copy (vconfig).
    """

    def __init__(self, hardware: ConfigSpace, function: Function, driver: Driver) -> None:
        self._hardware = hardware
        self._function = function
        self._driver = driver
        self._size = len(hardware.data)
        self._map = bytearray(self._size)
        self.copy = bytearray(self._size)
        self._msi = permissions.READ_ONLY
        self._bars_dirty = True
        self._extended = False
        self._map[r.HEADER_SIZE :] = bytes((_INVALID,)) * (self._size - r.HEADER_SIZE)
        self._fill(0, r.HEADER_SIZE)
        self._copy_chain()
        if self._extended:
            self._copy_extended_chain()

    # --- what is copied at the first open ---

    def _fill(self, start: int, length: int) -> None:
        self.copy[start : start + length] = self._hardware.data[start : start + length]

    def _copy_chain(self) -> None:
        """vfio_cap_init()."""
        hardware = self._hardware
        if not hardware.read(r.STATUS, 2) & r.STATUS_CAP_LIST:
            return
        position = hardware.read(r.CAPABILITY_LIST, 1)
        previous = r.CAPABILITY_LIST
        known = 0
        for _ in range((r.CONFIG_SIZE - r.HEADER_SIZE) // 4):
            if not position:
                break
            cap, following = hardware.data[position], hardware.data[position + r.CAP_NEXT]
            length = capability_length(hardware, cap, position)
            if not length:
                self.copy[previous] = position = following
                continue
            self._map[position : position + length] = bytes((cap,)) * length
            self._fill(position, length)
            if cap == r.CAP_ID_PM:
                self._hide_pme(position)
            elif cap == r.CAP_ID_MSI:
                self._msi = permissions.msi(hardware.read(position + r.MSI_FLAGS, 2))
            elif cap == r.CAP_ID_EXP and self._size > r.CONFIG_SIZE:
                self._extended = hardware.read(r.CONFIG_SIZE, 4) != 0
            previous = position + r.CAP_NEXT
            position = following
            known += 1
        if not known:
            self.copy[r.STATUS] &= ~r.STATUS_CAP_LIST

    def _hide_pme(self, at: int) -> None:
        """vfio_update_pm_vconfig_bytes(): the guest gets no power management events."""
        self._change_copy(at + r.PM_PMC, 2, r.PM_CAP_PME_MASK, 0)
        self._change_copy(at + r.PM_CTRL, 2, r.PM_CTRL_PME_ENABLE | r.PM_CTRL_PME_STATUS, 0)

    def _copy_extended_chain(self) -> None:
        """vfio_ecap_init()."""
        hardware = self._hardware
        position = r.CONFIG_SIZE
        previous = 0
        known = 0
        for _ in range((self._size - r.CONFIG_SIZE) // 4):
            if position < r.CONFIG_SIZE:
                break
            header = hardware.read(position, 4)
            cap, following = header & 0xFFFF, header >> 20 & 0xFFC
            length = extended_length(hardware, cap, position)
            if not length and previous:
                self._change_copy(previous, 4, _NEXT_MASK, following << 20)
                position = following
                continue
            hidden = not length  # the first one anchors the chain: its place is kept, its id is not told
            length = length or 4
            self._map[position : position + length] = bytes((cap & 0xFF,)) * length
            self._fill(position, length)
            if hidden:
                self._change_copy(position, 4, ~_NEXT_MASK & 0xFFFFFFFF, 0)
            else:
                known += 1
            previous = position
            position = following
        if not known:
            self.copy[r.CONFIG_SIZE : r.CONFIG_SIZE + 4] = bytes(4)

    # --- access ---

    def piece(self, position: int, left: int) -> int:
        """Return the bytes of the next piece of an access: vfio_config_do_rw().

        Raises:
            IoctlError: EFAULT for what does not lie in config space as a whole.
        """
        if position + left > self._size:
            raise IoctlError(errno.EFAULT, f"{position:#x}+{left} of a config space of {self._size} bytes")
        cap = self._map[position]
        room = 1
        while (position + room) % 4 and self._map[position + room] == cap:
            room += 1
        left = min(left, room)
        if left >= 4 and position % 4 == 0:
            return 4
        return 2 if left >= 2 and position % 2 == 0 else 1

    def looks_at_writes(self, position: int) -> bool:
        """Tell whether what is written there matters at all."""
        return self._permissions(position)[0].writes is not Writes.NOTHING

    def read(self, position: int, size: int) -> bytes:
        """Read any number of bytes; EFAULT as `piece`."""
        out = bytearray()
        while size:
            count = self.piece(position, size)
            out += self._read_piece(position, count)
            position += count
            size -= count
        return bytes(out)

    def write(self, position: int, data: bytes) -> Steps[None]:
        """Write one piece."""
        table, start = self._permissions(position)
        count = len(data)
        value = int.from_bytes(data, "little")
        if table.writes is Writes.RAW:
            self._hardware.write(position, count, value)
        elif table.writes is Writes.BASIC:
            yield from self._write_basic(table, position, count, value)
        elif table.writes is not Writes.NOTHING:
            self._write_mixed(table, position, count, value, position - start)
            yield from self._after_write(table.writes, start, position - start, count, value)

    def load(self, saved: bytes) -> None:
        """Take over the bits of another copy that the guest can write (`saved` has the same size)."""
        for position in range(self._size):
            table, start = self._permissions(position)
            virtual, write = table.masks(position - start, 1)
            if writable := virtual & write:
                self._change_copy(position, 1, writable, saved[position])
        self._bars_dirty = True

    def _permissions(self, position: int) -> tuple[Permissions, int]:
        """Find (table, offset where its capability begins)."""
        cap = self._map[position]
        if cap == _INVALID:
            return permissions.UNASSIGNED, position
        if cap == _BASIC and position < r.CONFIG_SIZE:
            return permissions.BASIC, 0
        base = r.HEADER_SIZE if position < r.CONFIG_SIZE else r.CONFIG_SIZE
        start = position
        while start > base and self._map[start - 1] == cap:  # vfio_find_cap_start()
            start -= 1
        if position >= r.CONFIG_SIZE:
            return permissions.EXTENDED.get(cap, permissions.READ_ONLY), start
        if cap == r.CAP_ID_MSI:
            return self._msi, start
        return permissions.CAPABILITIES.get(cap, permissions.READ_ONLY), start

    def _read_piece(self, position: int, count: int) -> bytes:
        table, start = self._permissions(position)
        hardware = self._hardware.data[position : position + count]
        offset = position - start
        if table.reads is Reads.RAW:
            return bytes(hardware)
        if table.reads is Reads.DIRECT:
            virtual = 4 if position >= r.CONFIG_SIZE else 2
            shown = min(max(0, virtual - offset), count)
            if position < r.CONFIG_SIZE and offset == 0 and count == 1:
                shown = 0  # the id alone is the hardware's
            return bytes(self.copy[position : position + shown] + hardware[shown:])
        if table is permissions.BASIC and _is_bar(position):
            self._fix_bars()
        mask, _ = table.masks(offset, count)
        mixed = self._copied(position, count) & mask | int.from_bytes(hardware, "little") & ~mask
        return mixed.to_bytes(count, "little")

    def _write_mixed(self, table: Permissions, position: int, count: int, value: int, offset: int) -> None:
        """vfio_default_config_write()."""
        virtual, write = table.masks(offset, count)
        if write & virtual:
            self._change_copy(position, count, write & virtual, value)
        if direct := write & ~virtual:
            old = self._hardware.read(position, count)
            self._hardware.write(position, count, old & ~direct | value & direct)

    def _write_basic(self, table: Permissions, position: int, count: int, value: int) -> Steps[None]:
        """vfio_basic_config_write()."""
        self._write_mixed(table, position, count, value, position)
        if position == r.COMMAND:
            # A piece of one byte has no upper byte, but the bits that matter are in the lower one.
            self._change_copy(r.COMMAND, 2, _MEMORY_OR_IO, value)
        if r.COMMAND <= position <= r.COMMAND + 1:
            yield from self._driver.command_written()
            disabled = bool(self._copied(r.COMMAND, 2) & r.COMMAND_INTX_DISABLE)
            yield from self._driver.set_virtual_intx_disable(disabled)
        if _is_bar(position):
            self._bars_dirty = True

    def _after_write(self, kind: Writes, start: int, offset: int, count: int, value: int) -> Steps[None]:
        """Do what the write functions of capabilities do after the bits have been written: vfio_pm_config_write() and others."""
        if kind is Writes.PM and offset == r.PM_CTRL:  # vfio_pm_config_write()
            yield from self._driver.set_power_state(value & r.PM_CTRL_STATE)
        elif kind is Writes.MSI and offset <= r.MSI_FLAGS <= offset + count:
            self._fix_msi(start)
            yield from self._driver.messages_changed()
        elif kind is Writes.MSI:  # masks are the hardware's
            yield from self._driver.messages_changed()
        elif kind is Writes.EXPRESS:
            yield from self._reset_if_asked(
                start + r.EXP_DEVCTL,
                r.EXP_DEVCTL_FLR,
                self._hardware.read(start + r.EXP_DEVCAP, 4) & r.EXP_DEVCAP_FLR != 0,
            )
        elif kind is Writes.AF:
            need = r.AF_CAP_FLR | r.AF_CAP_TP
            able = self._hardware.read(start + r.AF_CAP, 1) & need == need
            yield from self._reset_if_asked(start + r.AF_CTRL, r.AF_CTRL_FLR, able)

    def _reset_if_asked(self, control: int, bit: int, able: bool) -> Steps[None]:
        """vfio_exp_config_write(), vfio_af_config_write(): the reset bit is virtual and always reads as 0."""
        if not self._copied(control, 2) & bit:
            return
        self._change_copy(control, 2, bit, 0)
        if able:
            yield from self._driver.try_reset_function()

    def _fix_msi(self, start: int) -> None:
        """vfio_msi_config_write(): MSI is enabled by ioctl only, with as many vectors as were asked for there."""
        place = start + r.MSI_FLAGS
        flags = self._copied(place, 2)
        if not self._driver.msi_active:
            flags &= ~r.MSI_FLAGS_ENABLE
        if (flags & r.MSI_FLAGS_QSIZE) >> 4 > self._driver.msi_qmax:
            flags = flags & ~r.MSI_FLAGS_QSIZE | self._driver.msi_qmax << 4
        self._change_copy(place, 2, 0xFFFF, flags)
        self._hardware.write(place, 2, flags)

    def _fix_bars(self) -> None:
        """vfio_bar_fixup(): virtual BARs keep only address bits that hardware of their size would keep."""
        if not self._bars_dirty:
            return
        function = self._function
        values = [0] * r.BAR_COUNT
        for index, bar in function.bars.items():
            place = r.BASE_ADDRESS_0 + 4 * index
            mask = ~(bar.size - 1) & 0xFFFFFFFFFFFFFFFF
            values[index] = self._copied(place, 4) & mask & 0xFFFFFFFF | bar_flags(bar)
            if bar.kind == "mem64":
                values[index + 1] = self._copied(place + 4, 4) & mask >> 32
        for index, value in enumerate(values):
            self._change_copy(r.BASE_ADDRESS_0 + 4 * index, 4, 0xFFFFFFFF, value)
        mask = 0
        if size := rom_size(function):
            mask = ~(size - 1) & 0xFFFFFFFF | r.ROM_ADDRESS_ENABLE
        self._change_copy(r.ROM_ADDRESS, 4, 0xFFFFFFFF, self._copied(r.ROM_ADDRESS, 4) & mask)
        self._bars_dirty = False

    def _copied(self, position: int, count: int) -> int:
        return int.from_bytes(self.copy[position : position + count], "little")

    def _change_copy(self, position: int, count: int, mask: int, value: int) -> None:
        changed = self._copied(position, count) & ~mask | value & mask
        self.copy[position : position + count] = changed.to_bytes(count, "little")


def _is_bar(position: int) -> bool:
    """is_bar(): a BAR, or the ROM's."""
    return (
        r.BASE_ADDRESS_0 <= position < r.BASE_ADDRESS_0 + 4 * r.BAR_COUNT
        or r.ROM_ADDRESS <= position < r.ROM_ADDRESS + 4
    )

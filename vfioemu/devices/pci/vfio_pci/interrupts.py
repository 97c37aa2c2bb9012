# SPDX-License-Identifier: MIT
"""Interrupts of a PCI function: drivers/vfio/pci/vfio_pci_intrs.c.

At most one of INTx, MSI and MSI-X is enabled, by giving it eventfds with SET_IRQS; ERR and REQ are independent of them.
INTx is a level: when it is delivered it is masked until user space unmasks it, and if the line is still asserted then, the
eventfd is signalled again at once. The eventfds themselves are in the core's table.
"""

import errno
from collections.abc import Callable
from typing import Final

from vfioemu.core.base.effects import Abandoned, EventFd, Steps, Watch, Watcher
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.model.irqs import Irq, IrqRequest, IrqTable, take_eventfd
from vfioemu.devices.pci.hardware import registers as r
from vfioemu.devices.pci.hardware.card import PciHardware
from vfioemu.devices.pci.hardware.messages import MSI, MSIX, Messages
from vfioemu.devices.pci.vfio_pci.options import MAX_VECTORS
from vfioemu.uapi import constants as c

INTX: Final = c.VFIO_PCI_INTX_IRQ_INDEX
ERR: Final = c.VFIO_PCI_ERR_IRQ_INDEX
REQ: Final = c.VFIO_PCI_REQ_IRQ_INDEX

_EVENTFD: Final = c.VFIO_IRQ_INFO_EVENTFD
_NORESIZE: Final = _EVENTFD | c.VFIO_IRQ_INFO_NORESIZE
_MASKABLE: Final = _EVENTFD | c.VFIO_IRQ_INFO_MASKABLE | c.VFIO_IRQ_INFO_AUTOMASKED
_NONE: Final = c.VFIO_IRQ_SET_DATA_NONE
_BOOL: Final = c.VFIO_IRQ_SET_DATA_BOOL
_FD: Final = c.VFIO_IRQ_SET_DATA_EVENTFD
_MASK: Final = c.VFIO_IRQ_SET_ACTION_MASK
_UNMASK: Final = c.VFIO_IRQ_SET_ACTION_UNMASK
_TRIGGER: Final = c.VFIO_IRQ_SET_ACTION_TRIGGER


class Interrupts:
    """The interrupt state of an open function.

    Args:
        hardware: the function.
        table: where the eventfds are kept.
        host_vectors: how many MSI or MSI-X vectors the host has to give at a time.

    Attributes:
        active: the index that is enabled, or None.
        vectors: how many vectors were allocated when MSI or MSI-X was enabled.
        msi_qmax: log2 of the MSI vectors that were enabled last, by whoever had the function open then.
        masked: INTx is enabled and masked.
        virtual_disabled: the guest has set INTx disable.
        line: the function asserts INTx.
        messages: MSI and MSI-X.
    """

    def __init__(
        self, hardware: PciHardware, table: Callable[[], IrqTable], host_vectors: int = MAX_VECTORS
    ) -> None:
        self._function = hardware.function
        self._hardware = hardware.config
        self._irq_table = table
        self._host_vectors = host_vectors
        self.messages = Messages(hardware.config, table, lambda: hardware.may_dma)
        self.active: int | None = None
        self.vectors = 0
        self.msi_qmax = 0
        self.masked = False
        self.virtual_disabled = False
        self.line = False
        self._unmask: tuple[Watcher, EventFd] | None = None

    @property
    def _table(self) -> IrqTable:
        return self._irq_table()

    def irqs(self) -> tuple[Irq | None, ...]:
        """Return the answers to GET_IRQ_INFO: vfio_pci_get_irq_count(), vfio_pci_ioctl_get_irq_info()."""
        function = self._function
        msi, msix = function.msi, function.msix
        return (
            Irq(1 if function.interrupt_pin else 0, _MASKABLE),
            Irq(msi.vectors if msi else 0, _NORESIZE),
            Irq(msix.vectors, _EVENTFD) if msix else Irq(0, _NORESIZE),
            Irq(1, _NORESIZE) if function.express else None,
            Irq(1, _NORESIZE),
        )

    # --- SET_IRQS ---

    def set_irqs(self, request: IrqRequest) -> Steps[int]:
        """vfio_pci_set_irqs_ioctl(): 0, or how many vectors the host would have had.

        Raises:
            IoctlError: ENOTTY for an action that the index has not; EINVAL, EBADF, ERANGE as the kernel.
        """
        index = request.index
        if request.action == _TRIGGER:
            if index == INTX:
                yield from self._trigger_intx(request)
                return 0
            if index in (MSI, MSIX):
                return (yield from self._trigger_msi(request))
            yield from self._trigger_single(request)
            return 0
        if index == INTX and request.action == _MASK:
            self._set_mask(request)
            return 0
        if index == INTX and request.action == _UNMASK:
            yield from self._set_unmask(request)
            return 0
        raise IoctlError(errno.ENOTTY, f"irq index {index} has no action {request.action:#x}")

    def _set_mask(self, request: IrqRequest) -> None:
        """vfio_pci_set_intx_mask()."""
        self._check_intx(request)
        if request.flags & _FD:
            raise IoctlError(errno.ENOTTY, "INTx cannot be masked by an eventfd")
        if request.flags & _NONE or request.data[0]:
            self.mask()

    def _set_unmask(self, request: IrqRequest) -> Steps[None]:
        """vfio_pci_set_intx_unmask()."""
        self._check_intx(request)
        if not request.flags & _FD:
            if request.flags & _NONE or request.data[0]:
                yield from self.unmask()
            return
        (number,) = request.fds()
        if number < 0:
            self._drop_unmask()
            return
        eventfd = yield from take_eventfd(number)
        if eventfd is None:
            return
        if self._unmask is not None and not (yield Abandoned(self._unmask[1])):
            eventfd.close()
            raise IoctlError(errno.EBUSY, f"fd {number}: another eventfd unmasks INTx already")
        self._drop_unmask()  # virqfd_wakeup(): the last one was let go when it was closed
        self._unmask = (yield Watch(eventfd, self.unmask)), eventfd

    def _check_intx(self, request: IrqRequest) -> None:
        if self.active != INTX or request.start or request.count != 1:
            raise IoctlError(
                errno.EINVAL,
                "index 0 (INTx) is off"
                if self.active != INTX
                else f"start {request.start} + count {request.count}: index 0 (INTx) has one vector",
            )

    def _trigger_intx(self, request: IrqRequest) -> Steps[None]:
        """vfio_pci_set_intx_trigger()."""
        if self.active == INTX and request.turns_off:
            self._disable_intx()
            return
        if self.active not in (None, INTX) or request.start or request.count != 1:
            raise self._refusal(request)
        if request.flags & _FD:
            eventfd = yield from take_eventfd(request.fds()[0])
            self._table.replace(INTX, 0, eventfd)
            if self.active is None:
                yield from self._enable_intx()
            return
        if self.active is None:
            raise self._refusal(request)
        if request.flags & _NONE or request.data[0]:
            yield from self._send_intx()

    def _enable_intx(self) -> Steps[None]:
        """vfio_intx_enable(): masked from the beginning if the guest has INTx disabled."""
        self.active = INTX
        self.masked = self.virtual_disabled
        self._hardware_disable(self.masked)
        yield from self._deliver_intx()

    def _disable_intx(self) -> None:
        """vfio_intx_disable()."""
        self._drop_unmask()
        self._table.drop(INTX)
        self.active = None
        self.masked = False

    def _trigger_msi(self, request: IrqRequest) -> Steps[int]:
        """vfio_pci_set_msi_trigger()."""
        index = request.index
        if self.active == index and request.turns_off:
            self._disable_msi()
            return 0
        if self.active not in (None, index):
            raise self._refusal(request)
        if request.flags & _FD:
            enables = self.active is None
            if enables and (short := self._enable_msi(index, request.start + request.count)):
                return short
            try:
                yield from self._set_vectors(request)
            except IoctlError:
                if enables:
                    self._disable_msi()
                raise
            yield from self.deliver()
            return 0
        if self.active is None:
            raise self._refusal(request)
        for i in range(request.count):
            if request.flags & _NONE or request.data[i]:
                yield from self._table.signal(index, request.start + i)
        return 0

    def _enable_msi(self, index: int, vectors: int) -> int:
        """vfio_msi_enable(): 0, or how many vectors there are if they are not enough.

        Raises:
            IoctlError: ERANGE for no vectors (pci_alloc_irq_vectors() wants one at least), EINVAL in a low power state.
        """
        if self._hardware_state() and (vectors or index == MSI):  # MSI-X looks at the number first
            raise IoctlError(
                errno.EINVAL, f"index {index}: the function is not in D0, but in D{self._hardware_state()}"
            )
        if vectors < 1:
            raise IoctlError(errno.ERANGE, f"index {index}, start + count {vectors}: no vectors to enable")
        if vectors > self._host_vectors:
            return self._host_vectors
        self.active = index
        self.vectors = vectors
        self._hardware_disable(True)  # pci_intx_for_msi()
        cap = self._hardware.caps[r.CAP_ID_MSIX if index == MSIX else r.CAP_ID_MSI]
        if index == MSI:
            self.msi_qmax = (vectors - 1).bit_length()
            flags = self._hardware.read(cap + r.MSI_FLAGS, 2) & ~r.MSI_FLAGS_QSIZE
            self._hardware.write(cap + r.MSI_FLAGS, 2, flags | self.msi_qmax << 4 | r.MSI_FLAGS_ENABLE)
        else:
            flags = self._hardware.read(cap + r.MSIX_FLAGS, 2) & ~r.MSIX_FLAGS_MASKALL
            self._hardware.write(cap + r.MSIX_FLAGS, 2, flags | r.MSIX_FLAGS_ENABLE)
        return 0

    def _set_vectors(self, request: IrqRequest) -> Steps[None]:
        """vfio_msi_set_block(): on failure all of the request's vectors up to the failing one are empty."""
        vector = request.start
        try:
            for vector, number in enumerate(request.fds(), request.start):
                yield from self._set_vector(request.index, vector, number)
        except IoctlError:
            for v in range(request.start, vector + 1):
                self._table.replace(request.index, v, None)
            raise

    def _set_vector(self, index: int, vector: int, number: int) -> Steps[None]:
        """vfio_msi_set_vector_signal(): MSI-X vectors are allocated on the way, MSI vectors only when MSI is enabled."""
        self._table.replace(index, vector, None)
        if number < 0:
            return
        if vector >= self.vectors and index == MSI:
            raise IoctlError(
                errno.EINVAL, f"MSI was enabled with {self.vectors} vectors, {vector} is none of them"
            )
        self._table.replace(index, vector, (yield from take_eventfd(number)))

    def _disable_msi(self) -> None:
        """vfio_msi_disable()."""
        if self.active == MSI:
            cap, flags, enable = r.CAP_ID_MSI, r.MSI_FLAGS, r.MSI_FLAGS_ENABLE
        else:
            cap, flags, enable = r.CAP_ID_MSIX, r.MSIX_FLAGS, r.MSIX_FLAGS_ENABLE
        place = self._hardware.caps[cap] + flags
        self._hardware.write(place, 2, self._hardware.read(place, 2) & ~enable)
        self._table.drop(self.active)
        self._hardware_disable(False)
        self.active = None
        self.vectors = 0
        self.messages.clear()

    def _trigger_single(self, request: IrqRequest) -> Steps[None]:
        """vfio_pci_set_ctx_trigger_single(): ERR and REQ have one eventfd each."""
        index, table = request.index, self._table
        if request.flags & _NONE:
            if not table.has(index, 0):
                raise IoctlError(errno.EINVAL, f"index {index} has no eventfd")
            if request.count:
                yield from table.signal(index, 0)
            else:
                table.drop(index)
            return
        if not request.count:
            raise IoctlError(errno.EINVAL, f"count 0 with flags {request.flags:#x}")
        if request.flags & _BOOL:
            if request.data[0]:
                yield from table.signal(index, 0)
            return
        (number,) = request.fds()
        if number >= 0:
            table.replace(index, 0, (yield from take_eventfd(number)))
        elif number == -1:
            table.replace(index, 0, None)
        else:
            raise IoctlError(
                errno.EINVAL, f"index {index}: fd {number} is neither an fd nor -1, which takes it away"
            )

    def _refusal(self, request: IrqRequest) -> IoctlError:
        on = "no index is" if self.active is None else f"index {self.active} is"
        return IoctlError(
            errno.EINVAL,
            f"index {request.index}, start {request.start}, count {request.count}, flags {request.flags:#x}: {on} on",
        )

    # --- INTx ---

    def set_line(self, asserted: bool) -> Steps[None]:
        """Assert the INTx line of the function, or lower it."""
        self.line = asserted
        status = self._hardware.read(r.STATUS, 2) & ~r.STATUS_INTERRUPT
        self._hardware.force(r.STATUS, 2, status | (r.STATUS_INTERRUPT if asserted else 0))
        yield from self._deliver_intx()

    def mask(self) -> bool:
        """__vfio_pci_intx_mask(): whether that changed anything."""
        if self.active != INTX:
            self._hardware_disable(True)
            return False
        changed = not self.masked
        if changed:
            self._hardware_disable(True)
            self.masked = True
        return changed

    def unmask(self) -> Steps[None]:
        """__vfio_pci_intx_unmask(): a line that is still asserted is signalled again, and stays masked."""
        if self.active != INTX:
            self._hardware_disable(False)
            return
        if not self.masked or self.virtual_disabled:
            return
        if self.line:
            yield from self._send_intx()
            return
        self._hardware_disable(False)
        self.masked = False

    def set_virtual_disable(self, disabled: bool) -> Steps[None]:
        """Follow the guest's INTx disable bit, by masking or unmasking INTx: vfio_basic_config_write()."""
        if disabled == self.virtual_disabled:
            return
        self.virtual_disabled = disabled
        if disabled:
            self.mask()
        else:
            yield from self.unmask()

    def _deliver_intx(self) -> Steps[None]:
        """vfio_intx_handler(): the line is asserted and nobody has masked it."""
        if self.active == INTX and self.line and not self.masked:
            self._hardware_disable(True)
            self.masked = True
            yield from self._send_intx()

    def _send_intx(self) -> Steps[None]:
        """vfio_send_intx_eventfd()."""
        if not self.virtual_disabled:
            yield from self._table.signal(INTX, 0)

    # --- what the function does ---

    def raise_vector(self, vector: int) -> Steps[bool]:
        """Signal a vector through what is enabled, INTx if no messages are; False if nobody hears it."""
        if self.active is not None and self.messages.enabled(self.active):
            return (yield from self.messages.send(self.active, vector))
        yield from self.set_line(True)
        return self.active == INTX and self._table.has(INTX, 0)

    def deliver(self) -> Steps[None]:
        """Send pending messages, as what kept them back may have gone."""
        return self.messages.deliver(self.active)

    def signal(self, index: int) -> Steps[bool]:
        """Signal ERR or REQ."""
        return (yield from self._table.signal(index, 0))

    def close(self) -> None:
        """vfio_pci_core_disable(), as far as interrupts are concerned."""
        if self.active == INTX:
            self._disable_intx()
        elif self.active is not None:
            self._disable_msi()
        self._table.drop()
        self.virtual_disabled = False

    def _drop_unmask(self) -> None:
        watched, self._unmask = self._unmask, None
        if watched is not None:
            watched[0].close()

    def _hardware_disable(self, disabled: bool) -> None:
        """pci_intx()."""
        command = self._hardware.command & ~r.COMMAND_INTX_DISABLE
        self._hardware.command = command | (r.COMMAND_INTX_DISABLE if disabled else 0)

    def _hardware_state(self) -> int:
        """Read the power state, 0 to 3, from the hardware's PMCSR."""
        cap = self._hardware.caps.get(r.CAP_ID_PM)
        return 0 if cap is None else self._hardware.read(cap + r.PM_CTRL, 1) & r.PM_CTRL_STATE

# SPDX-License-Identifier: MIT
"""The low power features of vfio-pci: runtime power management on behalf of the user.

After LOW_POWER_ENTRY the function is suspended as soon as nothing uses it, and every ioctl, read or write resumes it for as
long as it takes. With a wakeup eventfd, the first of them signals it and ends low power mode. Kernel:
vfio_pci_runtime_pm_entry() and what follows it, vfio_pci_core_runtime_suspend() and _resume().
"""

import errno
from typing import Protocol

from vfioemu.core.base.effects import EventFd, Signal, Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.model.power import RuntimePower
from vfioemu.devices.pci.vfio_pci.interrupts import INTX, Interrupts


class Owner(Protocol):
    """The function whose power it is."""

    interrupts: Interrupts

    def set_power_state(self, state: int) -> Steps[None]:
        """Put the function into D0 or D3hot."""

    def command_written(self) -> Steps[None]:
        """Adapt mappings: whether they work may have changed."""


class LowPower(RuntimePower):
    """Low power mode of one function.

    Attributes:
        engaged: user space has asked for it: mappings do not work (pm_runtime_engaged).
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.engaged = False
        self._wakeup: EventFd | None = None
        self._masked_intx = False

    def enter(self, wakeup: EventFd | None) -> Steps[None]:
        """Enter low power mode: LOW_POWER_ENTRY, and _WITH_WAKEUP with an eventfd, which is ours from now on.

        Raises:
            IoctlError: EINVAL if the function is in low power mode already.
        """
        if self.engaged:
            if wakeup is not None:
                wakeup.close()
            raise IoctlError(errno.EINVAL, "flags LOW_POWER_ENTRY: the function is in low power mode already")
        self.engaged = True
        self._wakeup = wakeup
        yield from self._suspend()
        yield from self._owner.command_written()

    def leave(self) -> Steps[None]:
        """Leave low power mode, if it was entered: LOW_POWER_EXIT."""
        self._end()
        yield from self._owner.command_written()
        yield from self._resume_intx()

    def use(self) -> Steps[None]:
        """Resume the function, as somebody uses it; without a wakeup eventfd, suspend it again afterwards.

        Kernel: vfio_device_pm_runtime_get() for an ioctl, vfio_pci_rw() for a read or a write.
        """
        if not self.engaged:
            return
        if self._wakeup is not None:
            yield Signal(self._wakeup)
            yield from self.leave()
            return
        yield from self._resume_intx()
        yield from self._suspend()

    def close(self) -> None:
        """Leave low power mode, as the function is closed: vfio_pci_core_disable()."""
        self._end()
        self._masked_intx = False

    def _end(self) -> None:
        self.engaged = False
        wakeup, self._wakeup = self._wakeup, None
        if wakeup is not None:
            wakeup.close()

    def _suspend(self) -> Steps[None]:
        """Put the function into D0, whose state the bus keeps, and mask INTx: vfio_pci_core_runtime_suspend()."""
        yield from self._owner.set_power_state(0)
        interrupts = self._owner.interrupts
        self._masked_intx = interrupts.active == INTX and interrupts.mask()

    def _resume_intx(self) -> Steps[None]:
        if self._masked_intx:
            self._masked_intx = False
            yield from self._owner.interrupts.unmask()

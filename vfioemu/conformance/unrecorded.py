# SPDX-License-Identifier: MIT
"""Part 3 of the support matrix: behaviour taken from a kernel's source or a specification, which no recorded call shows."""

from typing import Final

from vfioemu.conformance.answers import table, taken_by

_INTRO: Final = """\
## 3. Read, and not recorded

No recorded call shows the following. It was read where the last column says (Debian's Linux 6.12.117, unless it says otherwise), and is held by tests of our own only.
"""

ROWS: Final[tuple[tuple[str, str], ...]] = (
    (
        "accesses to BARs are cut by 8, 4, 2 and 1 bytes (ports: 8 are two of 4), reads of the ROM by 4 at most",
        "vfio_pci_core_do_io_rw(), io-64-nonatomic-lo-hi.h; 7.2 as well",
    ),
    (
        f"`VFIO_DEVICE_IOEVENTFD` of 8 bytes: taken by {taken_by('ioeventfd_64')}",
        "vfio_pci_ioeventfd()",
    ),
    ("a fault half way leaves the whole pieces before it read or written", "vfio_pci_core_do_io_rw()"),
    ("a BAR below a page can be mapped if it has the page for itself", "vfio_pci_probe_mmaps()"),
    (
        "a mapping of a region holds its file: device, group and container, over fork; not if it is unmapped behind libc's back",
        "mmap(): vm_file",
    ),
    (
        "`SET_IRQS` for ERR and REQ: fd -1 clears, what is below is EINVAL",
        "vfio_pci_set_ctx_trigger_single()",
    ),
    (
        "an unmask eventfd is let go with its last fd; here that is looked for in /proc when the next one is set",
        "virqfd_wakeup()",
    ),
    (
        "MSI and MSI-X need a bus master and their enable bit; masked vectors are pending. A vector of MSI-X without an eventfd is masked",
        "PCI Local Bus 3.0, 6.8; vfio_msi_config_write()",
    ),
    ("INTx needs INTx disable clear in COMMAND", "vfio_basic_config_write()"),
    (
        "in the P2P states a device does no DMA at all, unless its model can tell what goes to other devices",
        "<linux/vfio.h>: VFIO_DEVICE_STATE_RUNNING_P2P",
    ),
    (
        "config space is not in a device's own state (`dma-engine`; option `config` for one that has it there)",
        "vfio-pci's variant drivers; QEMU's vfio_pci_load_config()",
    ),
    (
        "ERR and REQ are raised by command only (`vfioemu device`)",
        "vfio_pci_core_aer_err_detected(), _request()",
    ),
    (
        "a device that is removed is asked for by REQ every ten seconds, and waited for (`mdev stop`; sysfs says EBUSY)",
        "vfio_unregister_group_dev()",
    ),
    (
        "at its last close a bus is reset, if one of its functions cannot be reset by itself",
        "vfio_pci_dev_set_try_reset()",
    ),
)
"""Rows of (behaviour, where it was read)."""


def section() -> str:
    """Format the section, in Markdown."""
    return "\n".join((_INTRO, table(("what", "where it was read"), ROWS)))

# SPDX-License-Identifier: MIT
"""The options of every PCI function."""

from typing import Annotated, Final

from msgspec import Meta

from vfioemu.devices.options import Options

MAX_VECTORS: Final = 2048


class PciOptions(Options, frozen=True):
    """The options of any function that is bound to vfio-pci."""

    mmap: Annotated[
        bool,
        Meta(
            description="whether memory BARs can be mapped; what is stored to a mapping reaches no register"
        ),
    ] = True
    addresses: Annotated[
        tuple[int, ...],
        Meta(
            description="where firmware has put the BARs on the bus, by index; by default places of our choice"
        ),
    ] = ()
    host_vectors: Annotated[
        int,
        Meta(
            ge=1, le=MAX_VECTORS, description="how many MSI or MSI-X vectors the host has to give at a time"
        ),
    ] = MAX_VECTORS

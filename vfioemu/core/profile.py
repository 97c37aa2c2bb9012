# SPDX-License-Identifier: MIT
"""Kernel releases as data: what differs between them, and nothing else.

A handler asks the profile for a fact (`profile.wrap_errno`), never for a version.
"""

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How one kernel release answers where releases differ.

    Attributes:
        name: as in a machine description.
        wrap_errno: what iova+size or vaddr+size gets that passes 2^64.
        wrap_first: MAP_DMA looks for a wrap before the access flags, GET_BITMAP before the bitmap.
        top_wraps: a mapping that ends at 2^64 has the end 0 in lookups (vfio_find_dma() of 6.12).
        nesting: VFIO_TYPE1_NESTING_IOMMU is a type (a v2 one that no x86 domain takes).
        beyond_width_errno: what iommu_map() says to an IOVA wider than the IOMMU.
        mig_precopy_info_v2: VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 exists.
        dma_buf: VFIO_DEVICE_FEATURE_DMA_BUF exists in vfio-pci.
        ioeventfd_64: VFIO_DEVICE_IOEVENTFD takes 8 bytes: vfio_pci_rdwr.c sees iowrite64 defined (6.12.16 and later, and
            7.3 again; reads and writes of 8 bytes are one access in all of them).
    """

    name: str
    wrap_errno: int
    wrap_first: bool
    top_wraps: bool
    nesting: bool
    beyond_width_errno: int
    mig_precopy_info_v2: bool
    dma_buf: bool
    ioeventfd_64: bool


LINUX_6_12: Final = Profile(
    name="linux-6.12",
    wrap_errno=errno.EINVAL,
    wrap_first=False,
    top_wraps=True,
    nesting=True,
    beyond_width_errno=errno.EFAULT,
    mig_precopy_info_v2=False,
    dma_buf=False,
    ioeventfd_64=True,
)
LINUX_7_2: Final = Profile(
    name="linux-7.2",
    wrap_errno=errno.EOVERFLOW,
    wrap_first=True,
    top_wraps=False,
    nesting=False,
    beyond_width_errno=errno.EINVAL,
    mig_precopy_info_v2=True,
    dma_buf=True,
    ioeventfd_64=False,
)

PROFILES: Final[Mapping[str, Profile]] = MappingProxyType(
    {profile.name: profile for profile in (LINUX_6_12, LINUX_7_2)}
)

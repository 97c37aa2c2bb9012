# SPDX-License-Identifier: MIT
"""Linux 6.12, as recorded on 6.12.107 (Debian): described in full, because nothing is older here."""

from errno import EEXIST, EFAULT, EINVAL
from typing import Final

from vfioemu.uapi.profile import Profile

PROFILE: Final = Profile(
    name="linux-6.12",
    absent=frozenset({"VFIO_DEVICE_FEATURE_DMA_BUF", "VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2"}),
    map_range_first=False,
    map_wrap_errno=EINVAL,
    map_overlap_errno=EEXIST,
    unmap_wrap_errno=EINVAL,
    get_bitmap_wrap_errno=EINVAL,
    get_bitmap_to_top=False,  # vfio_iommu_type1_dirty_pages(): `range.iova + range.size < range.iova`
    pin_wrap_errno=None,
    top_wraps=True,
    beyond_width_errno=EFAULT,
    nesting=True,
    region_info_keeps_cap_offset=True,  # the struct that was read is written back
    ioeventfd_64=True,  # 6.12.16 and later
)

# SPDX-License-Identifier: MIT
"""Linux 7.2, as recorded on 7.2.12: what differs from 6.12."""

from dataclasses import replace
from errno import EINVAL, EOVERFLOW
from typing import Final

from vfioemu.uapi.releases.linux_6_12 import PROFILE as BASE

PROFILE: Final = replace(
    BASE,
    name="linux-7.2",
    base=BASE,
    absent=BASE.absent - {"VFIO_DEVICE_FEATURE_DMA_BUF", "VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2"},
    # Ends of ranges are inclusive, and what does not fit is EOVERFLOW.
    map_range_first=True,
    map_wrap_errno=EOVERFLOW,
    unmap_wrap_errno=EOVERFLOW,
    get_bitmap_wrap_errno=EOVERFLOW,
    get_bitmap_to_top=True,
    pin_wrap_errno=EOVERFLOW,
    top_wraps=False,
    beyond_width_errno=EINVAL,
    nesting=False,
    ioeventfd_64=False,  # 7.3 takes them again
)

# SPDX-License-Identifier: MIT
"""Guest memory as an IOMMU driver keeps it: the IOVA map, mappings, pins, accounting, bitmaps; for any backend.

It may import base and the bindings of our C library. It knows no group, no device and no ioctl.
"""

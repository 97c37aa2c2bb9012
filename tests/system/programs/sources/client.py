# SPDX-License-Identifier: MIT
"""A VFIO client in Python: maps memory, and once more in its place."""

import ctypes
import errno
import fcntl
import mmap
import os
import struct
import sys

container = os.open("/dev/vfio/vfio", os.O_RDWR)
group = os.open(f"/dev/vfio/{sys.argv[1]}", os.O_RDWR)
fcntl.ioctl(group, 0x3B68, struct.pack("<i", container))  # VFIO_GROUP_SET_CONTAINER
fcntl.ioctl(container, 0x3B66, 3)  # VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU
memory = mmap.mmap(-1, 0x10000)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
request = struct.pack("<IIQQQ", 32, 3, address, 0x100000, 0x10000)
print("mapped:", len(fcntl.ioctl(container, 0x3B71, request)))  # VFIO_IOMMU_MAP_DMA
try:
    fcntl.ioctl(container, 0x3B71, request)
except OSError as error:
    print(errno.errorcode[error.errno or 0])

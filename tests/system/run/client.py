# SPDX-License-Identifier: MIT
"""A VFIO program that knows nothing of vfioemu: opens the group in $VFIOEMU_GROUP, has the device write to its memory.

client.py MODE; every mode sets up a container with a megabyte of memory and the oracle device in it. Then
  once     has the device write to the memory, and compares
  forever  the same until it fails, and says with which errno
  wait     says "ready" and waits for stdin to end, then does it once
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import struct
import sys

API_VERSION, CHECK_EXTENSION, SET_IOMMU = 0x3B64, 0x3B65, 0x3B66
GROUP_STATUS, GROUP_SET_CONTAINER, GROUP_GET_DEVICE = 0x3B67, 0x3B68, 0x3B6A
MAP_DMA = 0x3B71
SIZE = 1 << 20
OP_RW = 3


def libc_ioctl(fd, number, argument):
    """ioctl() with an address or a number."""
    result = LIBC.ioctl(fd, ctypes.c_ulong(number), argument)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def set_up(memory):
    container = os.open("/dev/vfio/vfio", os.O_RDWR)
    group = os.open("/dev/vfio/" + os.environ["VFIOEMU_GROUP"], os.O_RDWR)
    assert fcntl.ioctl(container, API_VERSION) == 0
    status = fcntl.ioctl(group, GROUP_STATUS, struct.pack("=II", 8, 0))
    assert struct.unpack("=II", status)[1] & 1
    fcntl.ioctl(group, GROUP_SET_CONTAINER, struct.pack("=i", container))
    libc_ioctl(container, SET_IOMMU, ctypes.c_long(3))
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fcntl.ioctl(container, MAP_DMA, struct.pack("=IIQQQ", 32, 3, address, 1 << 20, SIZE))
    name = ctypes.create_string_buffer(os.path.basename(os.environ["VFIOEMU_SYSFSDEV"]).encode())
    return libc_ioctl(group, GROUP_GET_DEVICE, name)


def dma_write(device, offset, size, byte):
    """The oracle device's command window: write `byte`s to IOVA 1 MiB + offset."""
    os.pwrite(device, struct.pack("<8Q", OP_RW, (1 << 20) + offset, size, 1, byte, 0, 0, 0), 0)
    (result,) = struct.unpack("<q", os.pread(device, 64, 0)[:8])
    if result < 0:
        raise OSError(-result, os.strerror(-result))


def once(device, memory, byte):
    for offset in (0, 4096 - 8, SIZE - 100):
        dma_write(device, offset, 100, byte)
        assert memory[offset : offset + 100] == bytes([byte]) * 100, offset


def memory_of(kind):
    if kind == "private":
        return mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    fd = os.memfd_create("guest") if kind == "memfd" else os.open(kind, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(fd, SIZE)
    return mmap.mmap(fd, SIZE)


LIBC = ctypes.CDLL(None, use_errno=True)


def main():
    mode = sys.argv[1]
    memory = memory_of(sys.argv[2] if len(sys.argv) > 2 else "private")
    device = set_up(memory)
    once(device, memory, 7)
    if mode == "wait":
        print("ready", flush=True)
        sys.stdin.read()
        once(device, memory, 8)
    if mode == "forever":
        print("ready", flush=True)
        byte = 0
        try:
            while True:
                byte = (byte + 1) % 256
                once(device, memory, byte)
        except OSError as error:
            print(errno.errorcode[error.errno or 0], flush=True)
            return
    print(json.dumps({"ok": True}))


main()

# SPDX-License-Identifier: MIT
"""KVM's VFIO device, which VMMs tell of their groups: it cannot know emulated fds, so it is not asked."""

import os

import pytest

CODE = """
import ctypes, errno, fcntl, os, struct
libc = ctypes.CDLL(None, use_errno=True)
CREATE_VM, CREATE_DEVICE, SET, GET, HAS = 0xAE01, 0xC00CAEE0, 0x4018AEE1, 0x4018AEE2, 0x4018AEE3
ADD, DEL = 1, 2

def set_attr(device, what, fd, group=1, request=SET, address=None):
    number = ctypes.c_int(fd)
    where = ctypes.addressof(number) if address is None else address
    attr = struct.pack("IIQQ", 0, group, what, where)
    return errno.errorcode[ctypes.get_errno()] if libc.ioctl(device, ctypes.c_ulong(request), attr) < 0 else 0

container, group = os.open("/dev/vfio/vfio", os.O_RDWR), os.open("/dev/vfio/23", os.O_RDWR)
fcntl.ioctl(group, 0x3B68, struct.pack("i", container))
fcntl.ioctl(container, 0x3B66, 1)
function = fcntl.ioctl(group, 0x3B6A, bytearray(b"00fe:00:1e.0\\0"), True)
"""


def test_an_emulated_fd_does_not_make_a_device_of_another(connected):
    """What is no KVM device refuses the call as it always does."""
    code = (
        CODE
        + """
for other in os.open("/dev/null", os.O_RDWR), os.pipe()[0], container, 999:
    print(set_attr(other, ADD, group))
"""
    )
    assert connected.python(code).split() == ["ENOTTY", "ENOTTY", "ENOTTY", "EBADF"]


def test_kvm_is_told_that_all_is_well(connected):
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("there is no /dev/kvm here that we may use")
    code = (
        CODE
        + """
vm = fcntl.ioctl(os.open("/dev/kvm", os.O_RDWR), CREATE_VM, 0)
made = fcntl.ioctl(vm, CREATE_DEVICE, struct.pack("III", 4, 0, 0))
device = struct.unpack("III", made)[1]
print(set_attr(device, ADD, 0, request=HAS), set_attr(device, ADD, group), set_attr(device, ADD, function))
print(set_attr(device, DEL, group), set_attr(device, ADD, container), set_attr(device, ADD, os.pipe()[0]))
print(set_attr(device, ADD, 999), set_attr(device, ADD, group, address=8), set_attr(device, 9, group), set_attr(device, ADD, group, group=7))
"""
    )
    done = connected.python(code).splitlines()
    assert done == ["0 0 0", "0 EINVAL EINVAL", "EBADF EFAULT ENXIO ENXIO"]

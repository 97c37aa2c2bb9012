# SPDX-License-Identifier: MIT
"""Two ways to resolve a path that must agree: libc's realpath(), and link by link with lstat() and readlink().

agree.py SEED COUNT: prints where they do not, or where one tells where the tree is.
"""

import ctypes
import os
import random
import sys

PARTS = [
    "..",
    ".",
    "",
    "bus",
    "pci",
    "devices",
    "00fe:00:1e.0",
    "iommu_group",
    "subsystem",
    "driver",
    "kernel",
    "iommu_groups",
]
PARTS += [
    "23",
    "vendor",
    "class",
    "vfio",
    "module",
    "nothing",
    "mdev",
    "virtual",
    "dev",
    "sys",
    "proc",
    "self",
    "status",
]
STARTS = [
    "/sys/",
    "/sys/bus/pci/devices/",
    "/sys/kernel/iommu_groups/",
    "/dev/vfio/",
    "/dev/",
    "/",
    "//sys//",
    "",
]
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.realpath.restype = ctypes.c_char_p


def by_libc(path):
    out = ctypes.create_string_buffer(4096)
    return os.fsdecode(out.value) if LIBC.realpath(os.fsencode(path), out) else None


def by_hand(path):
    try:
        return os.path.realpath(path, strict=True)
    except OSError:
        return None


def main():
    dice = random.Random(int(sys.argv[1]))
    found = 0
    for _ in range(int(sys.argv[2])):
        if dice.random() < 0.01:
            os.chdir(
                dice.choice(
                    ["/", "/sys/bus/pci/devices", "/dev/vfio", "/sys/kernel/iommu_groups/23/devices", "/proc"]
                )
            )
        path = dice.choice(STARTS) + "/".join(dice.choice(PARTS) for _ in range(dice.randrange(1, 7)))
        if not path:
            continue  # the current directory, but not for libc
        # By hand, what does not end in a name is a directory; a "..", the parent of what was a file, is not noticed.
        libc, hand = by_libc(path), by_hand(path)
        found += libc is not None
        if libc is not None and (libc != hand or os.environ["VFIOEMU_ROOT"] in libc):
            print(os.getcwd(), path, libc, hand)
        if libc is None and hand is not None and os.path.isdir(hand) and ".." not in path.split("/"):
            print(os.getcwd(), path, libc, hand)
    print(f"{found} found")


main()

# SPDX-License-Identifier: MIT
"""What is on the wire: the constants, structs and calls of <linux/vfio.h>, once.

`constants` has the numbers under their C names, `flags` the same as classes, `structs` the structs, `registry` one row
per ioctl and `features` one per feature. The layer imports nothing of the project but itself.
"""

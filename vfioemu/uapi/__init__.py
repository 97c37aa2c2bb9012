# SPDX-License-Identifier: MIT
"""What is on the wire: the constants, structs and calls of <linux/vfio.h>, once.

`constants` has the numbers under their C names, `flags` the same as classes, `structs` the structs, `registry` one row
per ioctl and `features` one per feature. `profile` says in what kernel releases can differ, `releases` has one module for
each of them, and `profiles` is the list. The layer imports nothing of the project but itself.
"""

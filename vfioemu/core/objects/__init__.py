# SPDX-License-Identifier: MIT
"""Objects that exist whether or not an fd is open: container, group, device, migration state.

It may import model, type1, memory and base. A group knows its devices and its container; a device knows of its group, and a
container of its groups, what a Protocol beside it says. It knows no fd and no ioctl number; those are in files.
"""

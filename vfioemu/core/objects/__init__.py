# SPDX-License-Identifier: MIT
"""What is there whether or not an fd is open: container, group, device, migration state, machine.

It may import model, type1, memory and base. It knows no fd and no ioctl number; those are in files.
"""

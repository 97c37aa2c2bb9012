# SPDX-License-Identifier: MIT
"""One module for each kind of fd: its ioctls, read, write, mmap, poll and release.

This is the only door for whoever drives the core (the daemon, a test); it may import every other room.
Only the machine stands above it, whose nodes give the first files.
"""

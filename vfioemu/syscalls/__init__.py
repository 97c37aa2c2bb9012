# SPDX-License-Identifier: MIT
"""Calls of the Linux that vfioemu runs on: process memory, memfds, munmap. Nothing here is VFIO."""

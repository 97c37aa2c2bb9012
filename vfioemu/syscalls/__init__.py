# SPDX-License-Identifier: MIT
"""What vfioemu asks of the Linux that it runs on: memory of processes, memfds, unmapping. Nothing here is VFIO."""

# SPDX-License-Identifier: MIT
"""Proving that a guest has arrived as it was: pages, devices, and what follows from a difference.

==========  =================================================================================================
pages       every page of RAM, and a name for each write that is missing
echo        the state of each device, read back out of the destination
views       what each device shows through VFIO: config space, MSI-X, memory that can be mapped, interrupts
verdicts    both held together, per device: same, differs, not compared
==========  =================================================================================================

Nothing here knows a device model; what a driver of workload/ names beyond that is one more view.
"""

# SPDX-License-Identifier: MIT
"""The meaning of VFIO: containers, groups, devices, mappings, pins, dirty tracking, migration. No I/O, no clock.

Handlers are generators of effects (base/effects.py); whoever drives them, the daemon or a test, performs the effects.

The rooms, each of which imports of the core only what stands below it (docs/design.md says why):

=========  ===================================================================================================
machine    groups, devices, and the device nodes by which programs reach them: where everything begins
files      one module per kind of fd: its ioctls, read, write, mmap, poll; the only door for whoever drives it
objects    container, group, device, migration: what is there whether or not an fd is open
model      what the author of a device sees: `DeviceModel`, regions, interrupts, streams, `Host`
type1      a backend: the IOMMU driver behind a container
memory     what any backend is made of, and what devices and groups need of one
base       the ground floor: effects, errors, locks, files, callers, kernel releases, limits
=========  ===================================================================================================
"""

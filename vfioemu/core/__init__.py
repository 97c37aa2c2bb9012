# SPDX-License-Identifier: MIT
"""What VFIO means: containers, groups, devices, mappings, pins, dirty tracking, migration. No I/O, no clock.

Handlers are generators of effects (effects.py); whoever drives them, the daemon or a test, performs the effects.
"""

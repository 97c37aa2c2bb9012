# SPDX-License-Identifier: MIT
"""The ground floor of the core: effects, errors, locks, files, callers, kernel releases, limits.

It imports nothing else of the core, and what is here knows no VFIO object: a module belongs here if each other room may
need it.
"""

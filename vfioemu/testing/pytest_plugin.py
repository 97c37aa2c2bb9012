# SPDX-License-Identifier: MIT
"""The pytest plugin of vfioemu: fixtures with private instances (docs/testing.md)."""

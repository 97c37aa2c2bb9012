# SPDX-License-Identifier: MIT
"""The machine and the guest of `vfioemu demo`, as files."""

# SPDX-License-Identifier: MIT
"""The Linux VFIO kernel interface in user space."""

# SPDX-License-Identifier: MIT
"""The driver vfio-pci: what drivers/vfio/pci of Linux does around a function, whatever the function is."""

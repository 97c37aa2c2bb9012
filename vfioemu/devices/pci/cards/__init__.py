# SPDX-License-Identifier: MIT
"""PCI functions that are emulated, each with the model that binds it to vfio-pci."""

# SPDX-License-Identifier: MIT
"""A PCI function as hardware: config space, capabilities, BARs, messages, and what a card does with them."""

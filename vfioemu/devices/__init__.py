# SPDX-License-Identifier: MIT
"""Device models. How to find one by name is in `vfioemu.devices.registry`; how to write one, in core/model/device.py."""

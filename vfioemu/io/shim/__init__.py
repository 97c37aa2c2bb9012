# SPDX-License-Identifier: MIT
"""The transport of the preload library and of `vfioemu.client`: SEQPACKET messages as in protocol/wire.md."""

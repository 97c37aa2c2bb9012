# SPDX-License-Identifier: MIT
"""trio: bytes and fds of the wire <-> effects of the core. See protocol/wire.md."""

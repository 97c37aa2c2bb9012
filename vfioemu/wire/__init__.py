# SPDX-License-Identifier: MIT
"""The wire protocol between clients and the daemon: see protocol/wire.md."""

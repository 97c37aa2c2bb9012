# SPDX-License-Identifier: MIT
"""Live migration: the engine (pure), its drivers, the stream, the guest and the verifier."""

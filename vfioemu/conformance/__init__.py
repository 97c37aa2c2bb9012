# SPDX-License-Identifier: MIT
"""Replay golden traces and compare every bit of every answer."""

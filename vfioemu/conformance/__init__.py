# SPDX-License-Identifier: MIT
"""Replays golden traces and compares every bit of every answer."""

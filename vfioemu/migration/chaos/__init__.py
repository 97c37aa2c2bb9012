# SPDX-License-Identifier: MIT
"""Migrations that go wrong on purpose: all of a hand-over (explorer.py), and faults in every phase of a migration."""

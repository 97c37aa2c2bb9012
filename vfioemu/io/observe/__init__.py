# SPDX-License-Identifier: MIT
"""Watching: counters of calls, and traces of them for whoever listens."""

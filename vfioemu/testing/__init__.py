# SPDX-License-Identifier: MIT
"""Doubles and tools for tests: an in-memory process, a scheduler of calls, a fuzzer."""

# SPDX-License-Identifier: MIT
"""Arbitrary bytes to every ioctl on every kind of fd, among the calls of a client that makes sense."""

# SPDX-License-Identifier: MIT
"""Commands: the only place that prints."""

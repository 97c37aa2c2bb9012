# SPDX-License-Identifier: MIT
"""The memory of client processes: windows that are mapped here, the process's own memory, and what hardware holds of either."""

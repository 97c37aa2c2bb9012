# SPDX-License-Identifier: MIT
"""Bindings of the C kernel in csrc/: dirty bitmaps, the IOVA index, batched DMA."""

# SPDX-License-Identifier: MIT
"""The Python face of the C kernel in csrc/: dirty bitmaps, the IOVA index, batched DMA."""

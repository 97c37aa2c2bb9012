# SPDX-License-Identifier: MIT
"""What a guest of ours does: its CPUs and its devices write, and every write leaves a stamp that tells of it.

This is the only room of migration that knows a device model, and only as a guest knows it: by its registers. Everything else
migrates any device of any daemon. A second test device is one more file beside dma_engine.py, and a line in drivers.py.
"""

# SPDX-License-Identifier: MIT
"""Show calls as strace does: bytes as they were read and written -> typed events -> text.

`image` and `bitmap` hold the bytes, `decode` makes trees of them from the registry alone, `events` are recorded and sent, `text`
prints them, `filter` selects them, `summary` counts them, `encode` does the reverse of `decode`. Nothing here does I/O, and
nothing raises for any bytes: a trace is needed most when things go wrong.
"""

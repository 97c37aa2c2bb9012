# SPDX-License-Identifier: MIT
"""What a call looked like: bytes as they were read and written -> typed events -> strace's text.

`image` and `bitmap` hold the bytes, `decode` makes trees of them by the registry alone, `events` are what is recorded and sent,
`text` prints them, `filter` selects them, `summary` counts them, `encode` goes the other way. Nothing here does I/O, and nothing
raises for any bytes whatever: a trace is there for when things go wrong.
"""

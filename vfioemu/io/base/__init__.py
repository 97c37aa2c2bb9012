# SPDX-License-Identifier: MIT
"""The ground floor of io: time, fds, processes and limits of this daemon; it knows no memory, call or message of a client."""

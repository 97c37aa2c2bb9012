# SPDX-License-Identifier: MIT
"""trio: system calls of clients <-> effects of the core.

Six floors, imports go downwards only (types included): `shim`, the transport that there is; `dispatch`, which runs the calls of any;
`driver`, which performs effects, and `observe`, which counts and traces; `transport`, the interface between these and a transport;
`memory`, what belongs to client processes; `base`, time, fds and limits of this daemon. Begin to read with transport.py, then
dispatch.py.
"""

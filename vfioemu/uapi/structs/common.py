# SPDX-License-Identifier: MIT
"""Structs that more than one kind of fd uses."""

from vfioemu.uapi.payload import U16, U32, Payload, payload


@payload("vfio_info_cap_header")
class InfoCapHeader(Payload):
    """The head of each link in a capability chain; `next` counts from the start of the whole info struct, 0 ends it."""

    id: U16 = 0
    version: U16 = 0
    next: U32 = 0

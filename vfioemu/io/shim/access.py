# SPDX-License-Identifier: MIT
"""Who may connect, and how the daemon reaches their memory."""

from dataclasses import dataclass

from vfioemu.wire.messages import MemoryMode


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may connect, and how their memory is reached.

    Attributes:
        uids: whose messages are accepted.
        memory: ASK for a daemon that several users share; PROCESS_VM for a private one, because process_vm_readv() can
            be parked by a hostile process (userfaultfd, FUSE) and then stops everybody.
        accounts: locked memory is held against what clients say of their limits, so they are to say it.
        fallback: a process whose memory the system does not let us reach is asked, in place of being refused.
    """

    uids: frozenset[int]
    memory: MemoryMode = MemoryMode.ASK
    fallback: bool = False
    accounts: bool = False

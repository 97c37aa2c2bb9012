# SPDX-License-Identifier: MIT
"""What drivers of emulated devices are written against, where no other hardware has it: registers, commands, stamps.

It is no interface of Linux, so it is not in uapi; guests' drivers, clients, migration's workload and the device itself read
it here.
"""

# SPDX-License-Identifier: MIT
"""A client of the control socket (protocol/control.md), of a socket and JSON alone.

vfioemu serve --machine docs/examples/machine.toml --runtime-dir build/control --background
python docs/examples/control.py build/control/control.sock
vfioemu stop --runtime-dir build/control
"""

import json
import os
import socket
import struct
import sys
from typing import Any


class Control:
    """A connection to a daemon of our own user."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)
        _, uid, _ = struct.unpack("iII", self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != os.getuid():
            raise PermissionError(f"{path} is uid {uid}'s")
        self.lines = self.socket.makefile("rb")
        self.greeting = json.loads(self.lines.readline())["vfioemu"]

    def ask(self, command: str, **arguments: object) -> Any:
        """Have a command executed: what it returns; RuntimeError if it is refused."""
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        answer = json.loads(self.lines.readline())
        if "error" in answer:
            raise RuntimeError("{class}: {desc}".format(**answer["error"]))
        return answer["return"]


def main(path: str) -> None:
    """Look around, plug a device in and out, ask for something that is not there, and watch."""
    daemon = Control(path)
    for device in daemon.ask("list")["devices"]:
        print(f"{device['symbol']}: {device['model']} in group {device['group']}")

    made = daemon.ask("mdev-start", type="mtty", uuid="00000000-0000-4000-8000-000000000002")
    print(f"an mtty is in group {made['group']}")
    print("taken away again:", daemon.ask("mdev-stop", uuid=made["name"])["uuid"])

    try:
        daemon.ask("inspect", device="dma2", what="registers")
    except RuntimeError as refused:
        print(refused)

    listener = Control(path)
    print("tracing", listener.ask("trace", filters=["kind=container"])["filters"])
    print("listeners:", daemon.ask("stats")["listeners"])


if __name__ == "__main__":
    main(sys.argv[1])

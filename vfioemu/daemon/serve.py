# SPDX-License-Identifier: MIT
"""Run a daemon: a machine, its sockets, and the tasks that serve them, from start to a clean end."""

import contextlib
import logging
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from vfioemu.core.machine import Machine
from vfioemu.core.model.device import Factory
from vfioemu.core.objects.spec import MachineSpec
from vfioemu.daemon import runtime_dir as rd
from vfioemu.daemon.attributes import Attributes
from vfioemu.daemon.control import ControlServer
from vfioemu.daemon.functions import Functions
from vfioemu.daemon.garbage import collected_in_parts
from vfioemu.daemon.mediated import MediatedDevices
from vfioemu.daemon.needs import memory_of
from vfioemu.daemon.removal import Removals
from vfioemu.daemon.tracing import tracing
from vfioemu.daemon.tree import Tree
from vfioemu.daemon.workers import Workers
from vfioemu.devices.registry import load_models
from vfioemu.io.base.limits import Limits
from vfioemu.io.dispatch import Dispatcher
from vfioemu.io.observe.tracer import Tracer
from vfioemu.io.shim.access import Access
from vfioemu.io.shim.server import Server
from vfioemu.room import require_room
from vfioemu.trace.options import TraceOptions
from vfioemu.wire.messages import MemoryMode
from vfioemu.world import refusal

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a daemon runs.

    Attributes:
        runtime_dir: directory of its sockets; None for a new one, removed at the end.
        memory: how client memory is reached; PROCESS_VM suits a daemon that serves one user only.
        fallback: use ASK if the system refuses PROCESS_VM.
        uids: users that may connect besides our own.
        limits: bounds and time-outs.
        until: an fd; the daemon ends when it is readable, or its other end is closed. -1 for none.
        trace: where to write the trace; None for no trace.
    """

    runtime_dir: Path | None = None
    memory: MemoryMode = MemoryMode.ASK
    fallback: bool = False
    uids: frozenset[int] = frozenset()
    limits: Limits = field(default_factory=Limits)
    until: int = -1
    trace: TraceOptions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """A running daemon.

    Attributes:
        machine: the machine that it emulates.
        socket_path: the socket for clients.
        control_path: the socket for commands.
        root: the tree that programs see as /dev/vfio and in /sys.
        dispatcher: answers calls of every transport.
        server: the clients of the shim's transport.
    """

    machine: Machine
    dispatcher: Dispatcher
    server: Server
    root: Path
    socket_path: Path
    control_path: Path


def raise_file_limit() -> int:
    """Raise RLIMIT_NOFILE to its hard limit, as each emulated fd is one of ours too; return the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            return hard
    return soft


def _check_system() -> None:
    """Try the system calls that a daemon needs now, and not in the middle of a client's call, which could not report why.

    Raises:
        StartError: the system refuses one.
    """
    try:
        os.close(os.memfd_create("vfioemu", os.MFD_CLOEXEC))
        os.close(os.eventfd(0))
        for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM):
            end.close()
    except OSError as error:
        told = refusal(error)
        if told is None:
            raise
        raise rd.StartError(told.what, told.hint) from None


def _require_room(spec: MachineSpec, models: Mapping[str, Factory]) -> None:
    """Raise StartError if the machine's devices need more memory than there is, before the first is made."""
    size = sum(memory_of(models.get(device.model), device.options) for device in spec.devices)
    try:
        require_room("the machine", size)
    except OSError as error:
        raise rd.StartError(str(error.strerror), "fewer devices, or less memory behind their BARs") from None


@contextlib.asynccontextmanager
async def running(
    spec: MachineSpec,
    runtime_dir: str | os.PathLike[str] | None = None,
    *,
    memory: MemoryMode | str = MemoryMode.ASK,
    fallback: bool = False,
    uids: frozenset[int] = frozenset(),
    limits: Limits | None = None,
    trace: TraceOptions | None = None,
) -> AsyncIterator[Daemon]:
    """Run a daemon in this process for as long as the block lasts.

    Args:
        spec: the machine.
        runtime_dir: directory of its sockets; None for a new one, removed at the end.
        memory: "ask" or "process_vm".
        fallback: use "ask" if the system refuses process_vm.
        uids: users that may connect besides our own.
        limits: bounds and time-outs.
        trace: where to write the trace; None for no trace.

    Raises:
        StartError: it cannot start there.
        ValueError: such a machine is not possible.
    """
    if isinstance(memory, str):
        memory = MemoryMode[memory.upper()]
    _check_system()
    models = load_models(tried={device.model for device in spec.devices})
    _require_room(spec, models)
    machine = Machine(spec, models)
    access = Access(
        uids=uids | {os.getuid()}, memory=memory, fallback=fallback, accounts=spec.memlock == "client"
    )
    escaped: BaseException | None = None
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(rd.private_directory()) if runtime_dir is None else Path(runtime_dir)
        rd.make_private(directory, shared=bool(uids))
        stack.enter_context(rd.occupied(directory))
        socket_path = directory / rd.SOCKET
        control_path = directory / rd.CONTROL
        listener = stack.enter_context(
            rd.listening(socket_path, socket.SOCK_SEQPACKET, 0o666 if uids else 0o600)
        )
        controller = stack.enter_context(rd.listening(control_path, socket.SOCK_STREAM))
        async with tracing(trace) as sink:
            async with trio.open_nursery() as clients, trio.open_nursery() as services:
                dispatcher = Dispatcher(machine, clients, limits, several=len(access.uids) > 1)
                server = Server(dispatcher, access, clients)
                tracer = Tracer(dispatcher, machine)
                if sink is not None:
                    tracer.add(sink)
                try:
                    tree = stack.enter_context(
                        Tree(machine, directory, dispatcher.driver(), shared=bool(uids))
                    )
                    workers = Workers(machine, dispatcher, services)
                    removals = Removals(machine, dispatcher, services)
                    mdevs = MediatedDevices(machine, workers, tree, removals)
                    control = ControlServer(machine, server, mdevs, tree, tracer, services)
                    functions = Functions(machine, tree, workers.add, workers.remove)
                    server.clients.attributes = Attributes(machine, tree, functions, mdevs)
                    services.start_soon(server.listen, listener)
                    services.start_soon(server.watch_hangups)
                    services.start_soon(control.listen, controller)
                    yield Daemon(
                        machine=machine,
                        dispatcher=dispatcher,
                        server=server,
                        root=tree.root,
                        socket_path=socket_path,
                        control_path=control_path,
                    )
                except BaseException as error:  # noqa: BLE001 - raised below, outside the nurseries, so in no ExceptionGroup
                    escaped = error
                # Stop accepting first, then end the connections: one that is accepted in between would never be ended.
                services.cancel_scope.cancel()
                server.stop()
                clients.cancel_scope.cancel()
            server.close()
            dispatcher.close()
    if escaped is not None:
        raise escaped


async def serve(spec: MachineSpec, options: Options, ready: "Ready | None" = None) -> int:
    """Run a daemon until SIGTERM, SIGINT or SIGHUP; return the signal. An ignored SIGHUP (nohup) stays ignored.

    Raises:
        StartError: it cannot start.
        ValueError: such a machine is not possible.
    """
    raise_file_limit()
    ends = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        ends.append(signal.SIGHUP)
    with collected_in_parts(), trio.open_signal_receiver(*ends) as signals:
        async with running(
            spec,
            options.runtime_dir,
            memory=options.memory,
            fallback=options.fallback,
            uids=options.uids,
            limits=options.limits,
            trace=options.trace,
        ) as daemon:
            if ready is not None:
                ready.tell(daemon)
            async with trio.open_nursery() as nursery:
                if options.until >= 0:
                    nursery.start_soon(_end_with, options.until)
                number = await anext(aiter(signals))
                nursery.cancel_scope.cancel()
            log.info("signal %d: ending", number)
    return number


async def _end_with(parent: int) -> None:
    """Send ourselves SIGTERM when the process behind this fd has ended, however it ended."""
    await trio.lowlevel.wait_readable(parent)
    log.info("the parent process is gone")
    signal.raise_signal(signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Ready:
    """Report that clients can connect.

    Attributes:
        fd: receives the socket's path and a newline, and is closed; -1 for none.
        notify_socket: systemd's $NOTIFY_SOCKET.
        before: called with the runtime directory before anything is reported.
    """

    fd: int = -1
    notify_socket: str = ""
    before: Callable[[Path], None] | None = None

    def tell(self, daemon: Daemon) -> None:
        """Report it, in all ways."""
        if self.before is not None:
            self.before(daemon.socket_path.parent)
        if self.fd >= 0:
            with contextlib.suppress(OSError), open(self.fd, "wb") as pipe:  # the reader may have ended
                pipe.write(f"{daemon.socket_path}\n".encode())
        if self.notify_socket:
            address = self.notify_socket
            if address.startswith("@"):
                address = "\0" + address[1:]
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
                sock.sendto(f"READY=1\nMAINPID={os.getpid()}\n".encode(), address)
        log.info("ready: %s (control: %s)", daemon.socket_path, daemon.control_path)

# SPDX-License-Identifier: MIT
"""Serve the control socket: commands about the running machine."""

import contextlib
import logging
import os
import socket
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import msgspec
import trio

from vfioemu.core.base.errors import IoctlError
from vfioemu.core.machine import Machine
from vfioemu.core.objects.device import Device
from vfioemu.daemon import messages as d
from vfioemu.daemon import statistics
from vfioemu.daemon.ledgers import Ledgers, Room
from vfioemu.daemon.mediated import MediatedDevices
from vfioemu.daemon.sysfs import sysfsdev
from vfioemu.daemon.tracing import encoder, send_events
from vfioemu.daemon.tree import Tree
from vfioemu.io.base.listen import accept
from vfioemu.io.observe.sink import Sink
from vfioemu.io.observe.tracer import Tracer
from vfioemu.io.shim.server import Server
from vfioemu.trace.filter import Filter
from vfioemu.wire import control as protocol
from vfioemu.wire.control import ControlError, LineBuffer, ProtocolError
from vfioemu.wire.messages import VERSION

log: Final = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 64


def package_version() -> str:
    """Return the version of this package; "0" if it is not installed."""
    try:
        return version("vfioemu")
    except PackageNotFoundError:
        return "0"


def _turn_away(sock: socket.socket) -> None:
    """Send a refusal in place of the greeting, and close the connection."""
    why = ControlError("TooManyConnections", f"the limit of {MAX_CONNECTIONS} connections is reached")
    with sock, contextlib.suppress(OSError):  # the peer has closed it
        sock.send(protocol.refusal(why), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


class ControlServer:
    """Serve the control socket.

    Args:
        machine: what commands act on.
        server: its clients are listed and counted.
        mdevs: starts and stops mediated devices.
        tree: shows them.
        tracer: the source of events for `trace`.
        nursery: for connections.
    """

    def __init__(
        self,
        machine: Machine,
        server: Server,
        mdevs: MediatedDevices,
        tree: Tree,
        tracer: Tracer,
        nursery: trio.Nursery,
    ) -> None:
        self._machine = machine
        self._server = server
        self._tree = tree
        self._tracer = tracer
        self._sink: Sink | None = None
        self._event: trio.Event | None = None
        self._nursery = nursery
        self._connections = 0
        self._silent: dict[trio.CancelScope, int] = {}
        self._mdevs = mdevs
        self._room = Room()
        self._ledgers = Ledgers(self._room)
        """Those of the connection whose command is being executed."""
        self._commands: dict[str, tuple[type[Any], Callable[[Any], Any]]] = {
            "device-raise": (d.DeviceRaise, self._device_raise),
            "clients": (d.NoArguments, self._clients),
            "inspect": (d.Inspect, self._inspect),
            "ledger-begin": (d.LedgerBegin, self._ledger_begin),
            "ledger-end": (d.NoArguments, self._ledger_end),
            "ledger-take": (d.NoArguments, self._ledger_take),
            "ledger-writes": (d.LedgerWrites, self._ledger_writes),
            "list": (d.NoArguments, self._list),
            "mdev-list": (d.NoArguments, self._mdev_list),
            "mdev-start": (d.MdevStart, self._mdev_start),
            "mdev-stop": (d.MdevStop, self._mdev_stop),
            "mdev-types": (d.NoArguments, self._mdev_types),
            "metrics": (d.NoArguments, self._metrics),
            "set-parameter": (d.SetParameter, self._set_parameter),
            "stats": (d.NoArguments, self._stats),
            "trace": (d.Trace, self._trace),
        }

    async def listen(self, listener: socket.socket) -> None:
        """Accept connections until cancelled."""
        listener.setblocking(False)
        while True:
            sock, pid, uid = await accept(listener)
            if uid != os.getuid():
                log.warning("control: pid=%d uid=%d refused", pid, uid)
                sock.close()
                continue
            if self._connections >= MAX_CONNECTIONS and not self._make_room():
                log.warning(
                    "control: pid=%d refused: the limit of %d connections is reached", pid, MAX_CONNECTIONS
                )
                _turn_away(sock)
                continue
            self._connections += 1
            self._nursery.start_soon(
                self._serve, trio.SocketStream(trio.socket.from_stdlib_socket(sock)), pid
            )

    def _make_room(self) -> bool:
        """End the connection idle for longest; False if every one waits for an answer or receives a trace."""
        if not self._silent:
            return False
        oldest = next(iter(self._silent))
        pid = self._silent.pop(oldest)
        self._connections -= 1
        log.info("control: pid=%d is idle for longest and is closed to make room", pid)
        oldest.cancel()
        return True

    async def _serve(self, stream: trio.SocketStream, pid: int) -> None:
        scope = trio.CancelScope()
        self._silent[scope] = pid
        with scope:
            await self._serve_on(stream, pid, scope)

    async def _serve_on(self, stream: trio.SocketStream, pid: int, scope: trio.CancelScope) -> None:
        about = protocol.About(
            version=package_version(), protocol=VERSION, commands=sorted(self._commands), pid=os.getpid()
        )
        sink = None
        ledgers = Ledgers(self._room)
        try:
            async with stream:
                await self._send(stream, protocol.greeting(about))
                lines = LineBuffer(protocol.MAX_REQUEST)
                while part := await stream.receive_some():
                    lines.feed(part)
                    while (line := lines.line()) is not None:
                        if line.strip():
                            self._silent.pop(scope, None)
                            self._ledgers = ledgers
                            answer = self._answer(line)
                            sink, self._sink = self._sink, None
                            if not await self._waited_for(stream, lines):
                                return
                            await self._send(stream, answer)
                            if sink is not None:
                                await send_events(sink, stream)
                                return
                            if not len(
                                ledgers
                            ):  # it is silent because it waits for what is going to be noted
                                self._silent[scope] = pid
        except ProtocolError as error:
            log.warning("control: pid=%d sent %s", pid, error)
        except trio.BrokenResourceError:
            pass  # the peer closed the connection
        except trio.TooSlowError:
            log.warning("control: pid=%d does not read its answer", pid)
        except Exception as error:
            self._server.dispatcher.counters.bugs += 1
            log.error("internal error in a command of pid=%d", pid, exc_info=error)
        finally:
            ledgers.end()
            self._silent.pop(scope, None)
            if not scope.cancel_called:  # else _make_room() has counted it out already
                self._connections -= 1
            if sink is not None:
                self._tracer.remove(sink)

    async def _waited_for(self, stream: trio.SocketStream, lines: LineBuffer) -> bool:
        """Wait for the pending event of the last command, if any; return False if the client disconnected first.

        Bytes that the client sends meanwhile are kept in `lines`.
        """
        event, self._event = self._event, None
        if event is None:
            return True
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                with contextlib.suppress(
                    trio.BrokenResourceError
                ):  # a reset: the client closed with our data unread
                    while not lines.full and (part := await stream.receive_some()):
                        lines.feed(part)
                nursery.cancel_scope.cancel()

            nursery.start_soon(listen)
            await event.wait()
            nursery.cancel_scope.cancel()
        return event.is_set()

    async def _send(self, stream: trio.SocketStream, line: bytes) -> None:
        """Send a line. A client that does not read it within `ask_timeout` may wait for us to read, and is given up."""
        with trio.fail_after(self._server.limits.ask_timeout):
            await stream.send_all(line)

    def _answer(self, line: bytes) -> bytes:
        """Execute one request, and return the line with its answer."""
        try:
            request = protocol.decode_request(line)
        except ControlError as error:
            return protocol.refusal(error)
        # Handle hang-ups first: the answer must not list files that were closed before the request was sent.
        while self._server.dispatcher.poller.reap():
            pass
        try:
            return protocol.answer(self._execute(request), request.id)
        except ControlError as error:
            return protocol.refusal(error, request.id)
        except Exception as error:
            self._server.dispatcher.counters.bugs += 1
            log.error("internal error in %s", request.execute[:100], exc_info=error)
            why = f"{request.execute}: {type(error).__name__}: see the log"
            return protocol.refusal(ControlError("InternalError", why), request.id)

    def _execute(self, request: protocol.Request) -> object:
        """Execute a command and return its result.

        Raises:
            ControlError: the command is refused.
        """
        try:
            arguments, command = self._commands[request.execute]
        except KeyError:
            raise ControlError(
                "CommandNotFound",
                f"no command {request.execute!r}; known are {', '.join(sorted(self._commands))}",
            ) from None
        try:
            parsed = msgspec.convert(request.arguments, arguments)
        except msgspec.ValidationError as error:
            raise ControlError("BadArguments", f"{request.execute}: {error}") from None
        return command(parsed)

    # --- commands ---

    def _clients(self, _: d.NoArguments) -> list[d.ClientEntry]:
        return statistics.clients(self._server.sessions.values())

    def _list(self, _: d.NoArguments) -> d.Listing:
        machine = self._machine
        return d.Listing(
            profile=machine.spec.profile,
            root=str(self._tree.root),
            groups=[
                d.GroupEntry(
                    number=number,
                    iommu=group.spec.iommu is not None,
                    viable=group.spec.viable,
                    devices=[device.symbol for device in group.devices],
                )
                for number, group in sorted(machine.groups.items())
            ],
            devices=self._devices(),
            parameters=dict(machine.parameters),
        )

    def _devices(self) -> list[d.DeviceEntry]:
        return [
            d.DeviceEntry(
                symbol=symbol,
                name=device.name,
                model=device.spec.model,
                group=device.group.number,
                open=device.open_count,
                pins=device.npinned,
                sysfsdev=sysfsdev(device.name),
                mdev=symbol in self._mdevs,
            )
            for symbol, device in self._machine.devices.items()
        ]

    def _device(self, name: str) -> Device:
        """Find a device by its symbol or name."""
        devices = self._machine.devices
        device = devices.get(name) or next((one for one in devices.values() if one.name == name), None)
        if device is None:
            raise ControlError(
                "DeviceNotFound", f"no device {name!r}; known are {', '.join(sorted(devices))}"
            )
        return device

    def _device_raise(self, arguments: d.DeviceRaise) -> dict[str, bool]:
        device = self._device(arguments.device)
        driver = self._server.dispatcher.driver()
        steps = device.raise_error if arguments.what == "error" else device.request_removal
        try:
            waiting = driver.start(steps)
        except IoctlError as error:
            raise ControlError("DeviceFailed", f"device {device.symbol}: {error}") from None
        if waiting is not None:  # the model does more than to signal an eventfd, and waits

            async def finish() -> None:
                try:
                    await driver.finish(waiting)
                except IoctlError as error:
                    log.warning("device %s: %s", device.symbol, error)

            self._nursery.start_soon(finish)
            return {"heard": False}
        return {"heard": driver.result}

    def _inspect(self, arguments: d.Inspect) -> object:
        device = self._device(arguments.device)
        try:
            return device.model.inspect(arguments.what, arguments.arguments)
        except KeyError:
            raise ControlError(
                "NothingToInspect",
                f"device {device.symbol} ({device.spec.model}) has nothing named {arguments.what!r}",
            ) from None
        except ValueError as error:
            raise ControlError("BadArguments", f"{arguments.what}: {error}") from None

    def _ledger_begin(self, arguments: d.LedgerBegin) -> d.LedgerBegun:
        """Note what devices write, for this connection, until it ends or hangs up."""
        devices = [self._device(name) for name in arguments.devices]
        self._ledgers.begin(devices, arguments.ranges)
        return d.LedgerBegun(
            daemon=self._server.tokens.daemon_id.hex(), devices=[device.symbol for device in devices]
        )

    def _ledger_take(self, _: d.NoArguments) -> d.LedgerTaken:
        return self._ledgers.take()

    def _ledger_writes(self, arguments: d.LedgerWrites) -> list[d.LedgerWrite]:
        return self._ledgers.writes(arguments)

    def _ledger_end(self, _: d.NoArguments) -> dict[str, bool]:
        kept = len(self._ledgers) > 0
        self._ledgers.end()
        return {"ended": kept}

    def _stats(self, _: d.NoArguments) -> d.Stats:
        return statistics.stats(self._machine, self._server)

    def _metrics(self, _: d.NoArguments) -> str:
        return statistics.prometheus(self._machine, self._server)

    def _set_parameter(self, arguments: d.SetParameter) -> dict[str, int]:
        try:
            self._machine.set_parameter(arguments.name, arguments.value)
        except KeyError:
            known = ", ".join(sorted(self._machine.parameters))
            raise ControlError(
                "ParameterNotFound", f"no parameter {arguments.name!r}; known are {known}"
            ) from None
        except ValueError as error:
            raise ControlError("BadArguments", str(error)) from None
        self._tree.show_parameters()
        return dict(self._machine.parameters)

    def _mdev_types(self, _: d.NoArguments) -> list[d.MdevType]:
        return self._mdevs.types()

    def _mdev_list(self, _: d.NoArguments) -> list[d.DeviceEntry]:
        return [entry for entry in self._devices() if entry.mdev]

    def _mdev_start(self, arguments: d.MdevStart) -> d.DeviceEntry:
        name = self._mdevs.start(arguments.type, arguments.uuid, arguments.options)
        return next(entry for entry in self._devices() if entry.symbol == name)

    def _mdev_stop(self, arguments: d.MdevStop) -> dict[str, str]:
        """Remove a mediated device; if it is open, the answer is sent after its last close."""
        name, self._event = self._mdevs.stop(arguments.uuid)
        return {"uuid": name}

    def _trace(self, arguments: d.Trace) -> dict[str, list[str]]:
        """Send events on this connection from now on; it carries nothing else any more."""
        try:
            wanted = Filter(arguments.filters)
        except ValueError as error:
            raise ControlError("BadArguments", str(error)) from None
        self._sink = Sink(encoder("json", arguments.limit), wanted, arguments.limit)
        self._tracer.add(self._sink)
        return {"filters": arguments.filters}

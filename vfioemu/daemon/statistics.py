# SPDX-License-Identifier: MIT
"""Report counters and gauges of a daemon, as a message and as Prometheus text."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vfioemu.core.machine import Machine
from vfioemu.daemon import messages as d
from vfioemu.io.shim.server import Server

if TYPE_CHECKING:
    from vfioemu.io.shim.session import Session


def clients(sessions: "Iterable[Session]") -> list[d.ClientEntry]:
    """List the sessions, oldest first."""
    return [
        d.ClientEntry(
            session=session.number,
            pid=session.pid,
            uid=session.uid,
            connections=len(session.channels) + (session.service is not None),
            files=len(session.tokens),
            shared_bytes=session.space.shared,
            locked_pages=session.space.locked_pages,
        )
        for session in sessions
    ]


def stats(machine: Machine, server: Server) -> d.Stats:
    """Collect all counters and gauges."""
    files = Counter(str(token.file.kind) for token in server.tokens)
    containers = {str(number): dict(held) for number, held in machine.gauges().items()}
    totals: Counter[str] = Counter()
    for held in containers.values():
        totals.update(held)
    sessions = server.sessions.values()
    dispatcher = server.dispatcher
    counters = dispatcher.counters
    calls = sorted(counters.named_calls())
    merged: Counter[tuple[str, str]] = Counter()
    for call, error, count in calls:
        merged[call, error] += count
    return d.Stats(
        calls=[d.CallCount(call=call, errno=error, count=count) for (call, error), count in merged.items()],
        refused_peers=counters.refused_peers,
        internal_errors=counters.bugs,
        sessions=len(server.sessions),
        connections=sum(len(s.channels) + (s.service is not None) for s in sessions),
        files=dict(files),
        locked_pages=sum(s.space.locked_pages for s in sessions),
        containers=containers,
        totals=dict(totals),
        remarks=dict(counters.remarks),
        listeners=0 if dispatcher.tracer is None else dispatcher.tracer.listeners,
        longest_round=dispatcher.rounds.longest,
        client_fds=server.accounts.fds,
        max_client_fds=server.accounts.max_fds,
        ledgers=sum(device.ledger is not None for device in machine.devices.values()),
    )


class _Collector(Collector):
    """Convert `stats` to metrics when a scrape asks for them."""

    def __init__(self, machine: Machine, server: Server) -> None:
        self._machine = machine
        self._server = server

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        now = stats(self._machine, self._server)
        calls = CounterMetricFamily(
            "vfioemu_calls", "System calls answered, by name and errno.", labels=["call", "errno"]
        )
        for entry in now.calls:
            calls.add_metric([entry.call, entry.errno], entry.count)
        yield calls
        remarks = CounterMetricFamily(
            "vfioemu_remarks",
            "What no call shows, such as memory that was discarded under a mapping.",
            labels=["about"],
        )
        for about, count in sorted(now.remarks.items()):
            remarks.add_metric([about], count)
        yield remarks
        yield CounterMetricFamily(
            "vfioemu_refused_peers", "Connections ended for a broken protocol.", now.refused_peers
        )
        yield CounterMetricFamily("vfioemu_internal_errors", "Bugs met.", now.internal_errors)
        yield GaugeMetricFamily("vfioemu_sessions", "Clients.", now.sessions)
        yield GaugeMetricFamily("vfioemu_connections", "Connections.", now.connections)
        yield GaugeMetricFamily(
            "vfioemu_client_fds", "The daemon's fds that exist for clients.", now.client_fds
        )
        yield GaugeMetricFamily(
            "vfioemu_ledgers", "Devices whose writes are noted for a verification.", now.ledgers
        )
        yield GaugeMetricFamily(
            "vfioemu_longest_round_seconds",
            "The most CPU time between two looks at who wants something, since the daemon began.",
            now.longest_round,
        )
        yield GaugeMetricFamily("vfioemu_locked_pages", "Pages accounted as locked.", now.locked_pages)
        files = GaugeMetricFamily("vfioemu_files", "Open emulated files, by kind.", labels=["kind"])
        for kind, count in sorted(now.files.items()):
            files.add_metric([kind], count)
        yield files
        for name, value in sorted(now.totals.items()):
            yield GaugeMetricFamily(f"vfioemu_container_{name}", f"Sum over all containers of {name}.", value)


def prometheus(machine: Machine, server: Server) -> str:
    """Format `stats` in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(machine, server))
    return generate_latest(registry).decode("utf-8")

# SPDX-License-Identifier: MIT
"""`vfioemu stats`: show the counters of a running daemon."""

import json
from pathlib import Path

import click

from vfioemu.cli.where import ask, runtime_dir_option


@click.command(name="stats")
@runtime_dir_option
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--prometheus", is_flag=True, help="In Prometheus' text format.")
def command(runtime_dir: Path | None, instance: str, as_json: bool, prometheus: bool) -> None:
    """Show calls by name and answer, open files, and what containers hold."""
    if prometheus:
        print(ask(runtime_dir, instance, "metrics"), end="")
        return
    now = ask(runtime_dir, instance, "stats")
    if as_json:
        print(json.dumps(now, indent=2))
        return
    width = max((len(entry["call"]) for entry in now["calls"]), default=0)
    for entry in now["calls"]:
        print(f"{entry['call']:{width}} {entry['errno'] or 'ok':10} {entry['count']}")
    for name in ("sessions", "connections", "locked_pages", "refused_peers", "internal_errors"):
        print(f"{name.replace('_', ' ')}: {now[name]}")
    print(f"fds for clients: {now['client_fds']} of {now['max_client_fds']}")
    print(f"longest round: {now['longest_round'] * 1000:.1f} ms")
    for kind, count in sorted(now["files"].items()):
        print(f"open {kind} files: {count}")
    for name, value in sorted(now["totals"].items()):
        print(f"containers' {name.replace('_', ' ')}: {value}")

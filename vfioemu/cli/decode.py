# SPDX-License-Identifier: MIT
"""`vfioemu decode`: print bytes as the text of a trace, encode values into bytes, print recorded events as text."""

import difflib
import sys
from collections.abc import Iterable, Iterator
from typing import IO, Final

import click

from vfioemu.cli.errors import USAGE, CommandError
from vfioemu.cli.trace import STYLES
from vfioemu.trace import events as e
from vfioemu.trace.decode import DEFAULT_LIMIT, Capture, Decoder, extent
from vfioemu.trace.encode import EncodeError, encode, key_values
from vfioemu.trace.names import Style
from vfioemu.trace.text import Look, Printer
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.registry import IOCTLS, Ioctl

_ADDRESS: Final = 0x1000
EPILOG = """\b
vfioemu decode --ioctl VFIO_IOMMU_MAP_DMA 2000000003000000...
vfioemu decode --encode --ioctl MAP_DMA flags=READ iova=0x1000 size=4096
vfioemu trace --json | tee calls.json; vfioemu decode --from-json calls.json"""


@click.command(name="decode", epilog=EPILOG)
@click.argument("data", nargs=-1, metavar="HEX | - | FIELD=VALUE... | FILE")
@click.option("--ioctl", "name", help="Whose argument it is; VFIO_ may be left out. [default: try all]")
@click.option(
    "--kind",
    type=click.Choice([kind.value for kind in FdKind]),
    help="On which kind of fd, if that is not clear.",
)
@click.option("--encode", "to_bytes", is_flag=True, help="From FIELD=VALUE to HEX.")
@click.option("--from-json", is_flag=True, help="FILE (or -) is a trace in JSON: print it as text.")
@click.option("-X", "style", type=STYLES, default="abbrev", help="How names are printed. [abbrev]")
@click.option(
    "-s", "limit", type=click.IntRange(1, 1 << 16), default=DEFAULT_LIMIT, help="Elements shown. [8]"
)
@click.option("-T", "duration", is_flag=True, help="With --from-json: show how long calls took.")
@click.option("-ttt", "clock", is_flag=True, help="With --from-json: show when.")
def command(
    data: tuple[str, ...],
    name: str | None,
    kind: str | None,
    to_bytes: bool,
    from_json: bool,
    style: str,
    limit: int,
    duration: bool,
    clock: bool,
) -> int:
    """Print the bytes that the argument of an ioctl points to, as a trace would."""
    printer = Printer(Look(Style(style), limit, duration, clock))
    if from_json:
        if len(data) != 1:
            raise click.UsageError("--from-json takes one FILE, or -")
        with click.open_file(data[0], "rb") as file:
            _print_events(file, printer, data[0])
        return 0
    rows = list(_rows(name, kind))
    if to_bytes:
        if name is None or len(rows) != 1:
            raise click.UsageError("--encode takes the --ioctl that it is for")
        try:
            print(encode(rows[0], key_values(data)).hex())
        except EncodeError as error:
            raise CommandError(str(error), exit_code=USAGE) from None
        return 0
    raw = _bytes(data)
    found = rows if name is not None else _candidates(rows, raw)
    if not found:
        raise CommandError(f"{len(raw)} bytes are the argument of no ioctl", "name one with --ioctl")
    capture = Capture()
    capture.read.put(_ADDRESS, raw)
    for row in found:
        tree = Decoder(capture, limit, everything=True).argument(row, _ADDRESS)
        print(f"{row.name} {printer.payload(row, tree)}")
    return 0


def _rows(name: str | None, kind: str | None) -> Iterator[Ioctl]:
    """Return the ioctls with a pointer argument that match the options."""
    asked = None if name is None else {name.upper(), f"VFIO_{name.upper()}"}
    known = [row for row in IOCTLS if row.argument == "pointer"]
    found = [
        row
        for row in known
        if (asked is None or asked & {row.name, row.name.removeprefix(f"VFIO_{row.kind.upper()}_")})
        and (kind is None or row.kind == kind)
    ]
    if not found and asked is not None:
        ending = f"_{(name or '').upper()}"
        close = [row for row in known if row.name.endswith(ending) and kind in (None, row.kind)]
        if len(close) == 1:
            return iter(close)
        where = f" on a {kind} fd" if kind else ""
        raise CommandError(
            f"no ioctl {name!r} with memory behind its argument{where}",
            f"{_nearest(name or '', known)}known are {', '.join(row.name for row in close or known)}",
            USAGE,
        )
    return iter(found)


def _nearest(name: str, known: Iterable[Ioctl]) -> str:
    """Suggest the most similar name, written with or without its common prefix; "" if there is none."""
    full = {row.name.removeprefix("VFIO_").removeprefix(f"{row.kind.upper()}_"): row.name for row in known}
    full |= {row.name: row.name for row in known}
    close = difflib.get_close_matches(name.upper(), full, 1)
    return f"did you mean {full[close[0]]}? " if close else ""


def _bytes(data: tuple[str, ...]) -> bytes:
    text = sys.stdin.read() if data == ("-",) else "".join(data)
    digits = "".join(text.split()).replace(":", "").removeprefix("0x")
    try:
        raw = bytes.fromhex(digits)
    except ValueError as error:
        raise CommandError(f"this is not hex: {error}", exit_code=USAGE) from None
    if not raw:
        raise click.UsageError("no bytes: give them in HEX, or - to read them from stdin")
    return raw


def _candidates(rows: list[Ioctl], raw: bytes) -> list[Ioctl]:
    """Return the ioctls whose argument the bytes can be: argsz fits; if possible, only those that fill it exactly."""
    argsz = int.from_bytes(raw[:4], "little")
    structs = [(row, row.payload) for row in rows if row.payload is not None]
    able = [(row, payload) for row, payload in structs if row.minsz <= argsz <= len(raw)]
    return [row for row, payload in able if extent(payload, raw) == argsz] or [row for row, _ in able]


def _print_events(file: IO[bytes], printer: Printer, name: str) -> None:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            print(printer.line(e.decode(line)))
        except ValueError as error:
            raise CommandError(f"{name}:{number}: not an event: {error}") from None

# SPDX-License-Identifier: MIT
"""`vfioemu`: the command line. Commands are imported on use, so that `--version` is quick."""

import contextlib
import difflib
import errno
import importlib
import logging
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import Any, Final

import click

from vfioemu.cli import output
from vfioemu.cli.errors import FAILED, INTERNAL, USAGE, report
from vfioemu.printable import Lines
from vfioemu.world import refusal

COMMANDS: Final = {
    "chaos": "Let migrations go wrong in every way, and look what comes of it.",
    "conformance": "Hold our answers against a real kernel's.",
    "device": "Have a device report an error, or ask for itself.",
    "devices": "List the device models, or the options of one.",
    "decode": "Bytes of an ioctl's argument as text, and the other way.",
    "demo": "Two daemons, and a guest that moves between them.",
    "incoming": "Receive a migrating guest.",
    "mdev": "Create and remove mediated devices of a running daemon.",
    "migrate": "Move a guest to another daemon, and verify it.",
    "run": "Run a program, unmodified, with emulated devices.",
    "serve": "Emulate a machine until SIGTERM.",
    "stats": "Show what a running daemon has counted.",
    "stop": "End a running daemon.",
    "trace": "Show clients' calls as strace would, and why they fail.",
}
"""Name and one line of help; the command is `vfioemu.cli.NAME:command`."""

_PRINTERS: Final = frozenset({"decode", "devices", "mdev", "stats", "trace"})
"""Commands whose only effect is their output: they fail if it is lost."""
_ENDS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_EXIT_CODES: Final = """\b
Exit status: 0 done; 1 it did not work; 2 usage or configuration; 3 the
migration failed, the source runs; 4 cancelled, the source runs; 5 not the
same there, moved or not; 6 in doubt; 9 blocked before any byte was sent; 70 a bug of
ours; 77 a prerequisite is missing; 128+n ended by signal n."""


class _Ended(BaseException):
    """Carry an error to `main()` past click, which prints an empty line for ^C and ends with 1 for a broken pipe."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


@contextlib.contextmanager
def _past_click() -> Iterator[None]:
    try:
        yield
    except (OSError, KeyboardInterrupt) as error:
        raise _Ended(error) from None


class LazyGroup(click.Group):
    """A group that knows the names of its commands, and imports one when it is called."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the options."""
        with _past_click():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Execute the command."""
        with _past_click():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            if near := difflib.get_close_matches(cmd_name, COMMANDS, 1):
                ctx.fail(f"no such command: {cmd_name!r}; did you mean {near[0]!r}?")
            return None
        if cmd_name not in _PRINTERS and not {"-h", "--help"} & set(sys.argv):
            output.go_on_without()
        found = importlib.import_module(f"vfioemu.cli.{cmd_name.replace('-', '_')}").command
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List them without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


def _show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        print(f"vfioemu {version('vfioemu')}")
        ctx.exit()


@click.group(cls=LazyGroup, epilog=_EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", count=True, help="Say more; twice: everything.")
@click.option("-q", "--quiet", is_flag=True, help="Say only what goes wrong.")
@click.option(
    "-V",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Print the version.",
)
@click.option(
    "--part-of", hidden=True, help="The command that is told of usage errors: it was given the options."
)
def cli(verbose: int, quiet: bool, part_of: str | None) -> None:
    """Emulate the Linux VFIO kernel interface in user space, and migrate guests through it."""
    level = logging.WARNING if quiet else (logging.DEBUG if verbose > 1 else logging.INFO)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines("vfioemu: %(levelname)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


def main() -> None:
    """Run the command line and exit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    output.make_steady()
    status = _status()
    for late in _ENDS:  # the outcome is known: a signal no longer changes it
        with contextlib.suppress(ValueError):  # not in the main thread, as in a test
            signal.signal(late, signal.SIG_IGN)
    sys.exit(_with_output(status, output.finish()))


def _status() -> int:
    """Run the command; return the exit status."""
    try:
        status = cli.main(prog_name="vfioemu", standalone_mode=False)
    except click.UsageError as error:
        _say_usage(error)
        return USAGE
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SystemExit as end:
        status = end.code
    except _Ended as end:
        return _interrupted() if isinstance(end.error, KeyboardInterrupt) else _failed(end.error)
    except (click.Abort, KeyboardInterrupt):
        return _interrupted()
    except BaseExceptionGroup as group:
        if group.split(KeyboardInterrupt)[1] is None:
            return _interrupted()
        return _failed(group)
    except BaseException as error:  # noqa: BLE001 - the boundary of the program
        return _failed(error)
    if not isinstance(status, int):
        return 0 if status is None else FAILED
    return status if status >= 0 else 128 - status


def _say_usage(error: click.UsageError) -> None:
    where = _command_of(error.ctx)
    message = error.format_message()
    if message.startswith("Usage: "):  # a group was called without a command
        print(message, file=sys.stderr)
    elif isinstance(error, click.NoSuchOption) and error.option_name in ("-v", "-q", "--verbose", "--quiet"):
        command = where.removeprefix("vfioemu ")
        report(message, f"it stands before the command: `vfioemu {error.option_name} {command} ...`")
    else:
        report(message, f"see `{where} --help`")


def _command_of(context: click.Context | None) -> str:
    """Return the command whose --help to suggest; if click does not know, the one on the command line."""
    if context is not None:
        whole = context.find_root().params.get("part_of")
        return context.command_path if whole is None else f"vfioemu {whole}"
    path = "vfioemu"
    command: click.Command = cli
    for word in sys.argv[1:]:
        if not isinstance(command, click.Group):
            break
        here = click.Context(command)
        if word in command.list_commands(here) and (found := command.get_command(here, word)):
            path, command = f"{path} {word}", found
    return path


def _interrupted() -> int:
    print("vfioemu: interrupted", file=sys.stderr)
    return 128 + signal.SIGINT


def _failed(error: BaseException) -> int:
    """Report an error of the system, of a third-party model, or a bug of ours; return the exit status."""
    if output.is_ours(error):
        return 0
    if (told := refusal(error)) is not None:
        report(told.what, told.hint)
        logging.getLogger(__name__).debug("from", exc_info=error)
        return FAILED
    from vfioemu.devices.registry import BrokenModel

    if isinstance(error, BrokenModel):
        report(str(error), error.hint)
        return FAILED
    traceback.print_exception(error)
    report("internal error", "please report it with the lines above")
    return INTERNAL


def _with_output(status: int, lost: OSError | None) -> int:
    """Return the exit status, changed if standard output was lost."""
    if lost is None:
        return status
    if not output.was_wanted():
        if lost.errno != errno.EPIPE:  # the reader closed the pipe on purpose, as `head` does
            report(f"the output is not complete: {lost.strerror}")
        return status
    if lost.errno != errno.EPIPE:
        report(f"cannot write to standard output: {lost.strerror}")
        return status or FAILED
    return status or 128 + signal.SIGPIPE


if __name__ == "__main__":
    main()

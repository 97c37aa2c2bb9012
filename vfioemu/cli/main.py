# SPDX-License-Identifier: MIT
"""`vfioemu`: the command line. Commands are imported when they are used, so that `--version` is quick."""

import importlib
import logging
import sys
import traceback
from typing import Final

import click

from vfioemu.cli.errors import INTERNAL, USAGE, report

COMMANDS: Final = {
    "conformance": "Hold our answers against a real kernel's.",
    "devices": "List the device models, or the options of one.",
    "decode": "Bytes of an ioctl's argument as text, and the other way.",
    "demo": "Two daemons, and a guest that moves between them.",
    "fuzz": "Feed arbitrary bytes to every ioctl.",
    "incoming": "Receive a migrating guest.",
    "mdev": "Create and remove mediated devices of a running daemon.",
    "migrate": "Move a guest to another daemon, and prove that nothing was lost.",
    "run": "Run a program, unmodified, with emulated devices.",
    "serve": "Emulate a machine until SIGTERM.",
    "stats": "Show what a running daemon has counted.",
    "stop": "End a running daemon.",
    "trace": "Show what a daemon's clients do, as strace would, and why it was refused.",
}
"""Name and one line of help; the command is `vfioemu.cli.NAME:command`."""

_EXIT_CODES: Final = """\b
Exit status: 0 done; 1 it did not work; 2 usage or configuration; 3 the
migration failed, the source runs; 4 cancelled, the source runs; 5 moved, and
not the same; 6 in doubt; 9 blocked before any byte was sent; 70 a bug of
ours; 77 a prerequisite is missing; 128+n ended by signal n."""


class LazyGroup(click.Group):
    """A group that knows its commands' names and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names."""
        del ctx
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        found = importlib.import_module(f"vfioemu.cli.{cmd_name.replace('-', '_')}").command
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List them without importing one."""
        del ctx
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
def cli(verbose: int, quiet: bool) -> None:
    """Emulate the Linux VFIO kernel interface in user space, and migrate guests through it."""
    level = logging.WARNING if quiet else (logging.DEBUG if verbose > 1 else logging.INFO)
    logging.basicConfig(level=level, format="vfioemu: %(levelname)s: %(message)s", stream=sys.stderr)


def main() -> None:
    """Run the command line; exits."""
    try:
        status = cli.main(prog_name="vfioemu", standalone_mode=False)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "vfioemu"
        report(error.format_message(), f"see `{where} --help`")
        sys.exit(USAGE)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(128 + 2)
    except Exception:  # noqa: BLE001 - the boundary of the program
        traceback.print_exc()
        report("internal error", "please report it with the lines above")
        sys.exit(INTERNAL)
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()

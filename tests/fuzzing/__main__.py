# SPDX-License-Identifier: MIT
"""Run the fuzzers (`python -m tests.fuzzing`); errors and exit statuses are those of `vfioemu`."""

import signal
import sys
from typing import Final

import click

from tests.fuzzing.command_line import command
from tests.fuzzing.engines import NAME
from vfioemu.cli.errors import FAILED, USAGE, report
from vfioemu.world import refusal

INTERRUPTED: Final = 128 + signal.SIGINT


def main() -> int:
    """Execute the command line; return the exit status."""
    try:
        status: int = command.main(prog_name=NAME, standalone_mode=False) or 0
    except click.UsageError as error:
        report(error.format_message(), f"see `{NAME} --help`")
        return USAGE
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("vfioemu: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        told = refusal(error)
        if told is None:
            raise
        report(told.what, told.hint)
        return FAILED
    return status


if __name__ == "__main__":
    sys.exit(main())

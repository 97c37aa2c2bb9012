# SPDX-License-Identifier: MIT
"""The commands. Only this package prints."""

import os
import signal
import sys

if (
    os.path.basename(sys.argv[0]) in ("vfioemu", "-m")
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    # During imports ^C ends the process without a traceback; main() restores Python's handler.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

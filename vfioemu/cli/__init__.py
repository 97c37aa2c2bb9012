# SPDX-License-Identifier: MIT
"""Commands: the only place that prints."""

import os
import signal
import sys

if (
    os.path.basename(sys.argv[0]) in ("vfioemu", "-m")
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    # While modules are imported, ^C ends us without a traceback; main() takes it back.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

"""Runs the command in a terminal of its own, as wide as a test likes."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence

COMMAND = [sys.executable, "-c", "import sys; from dnafeat.cli.main import main; sys.exit(main())"]


def on_terminal(arguments: Sequence[str], *, columns: int = 80, **environment: str) -> str:
    """What the command prints on a terminal, standard error among it."""
    mine, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdin=its, stdout=its, stderr=its, env={**kept, "TERM": "xterm", **environment}, close_fds=True
    )
    os.close(its)
    found = b""
    while True:
        try:
            block = os.read(mine, 1 << 16)
        except OSError:
            # Linux's answer once nobody holds the other end.
            break
        if not block:
            break
        found += block
    process.wait()
    os.close(mine)
    return found.decode().replace("\r\n", "\n")

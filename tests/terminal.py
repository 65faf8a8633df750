"""Running a program whose stderr is a terminal."""

import os
import pty
import subprocess
import termios
from collections.abc import Sequence
from pathlib import Path


def on_terminal(command: Sequence[str | Path], columns: int) -> str:
    """What a program writes to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    with subprocess.Popen(command, stderr=theirs, stdout=subprocess.DEVNULL):
        os.close(theirs)
        text = b""
        try:
            while part := os.read(ours, 4096):
                text += part
        except OSError:
            pass  # Linux: the other side was closed
    os.close(ours)
    return text.decode()

"""Letting processes fail at a later point each time: running the scripts that do it, and the children within them.

The scripts are crash_directory.py and index/write/crash.py; they say what their failures are.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def tries(script: Path, *arguments: str | Path, inside: Sequence[str] = ()) -> dict[str, list[dict[str, Any]]]:
    """Run a script as `SCRIPT FAILURE ROOT OPERATION:STEP …`; for each operation, one entry for each try.

    Args:
        script: the script.
        arguments: of the script.
        inside: a command that runs the script, with its first arguments.
    """
    command = [*inside, sys.executable, str(script), *map(str, arguments)]
    path = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=variables)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, list[dict[str, Any]]] = {operation.split(":")[0]: [] for operation in map(str, arguments[2:])}
    for line in done.stdout.splitlines():
        entry = json.loads(line)
        found[entry["operation"]].append(entry)
    return found


def ending(run: Callable[[], str | None], name: Callable[[BaseException], str]) -> str | None:
    """How a child ends that calls `run`: "killed", the name of the exception, or what `run` returns."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            told = run()
        except BaseException as error:  # noqa: BLE001
            told = name(error)
        os.write(write, (told or "").encode())
        os._exit(1 if told else 0)
    os.close(write)
    _, status = os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        return {0: None, 1: pipe.read(), 9: "killed"}[os.waitstatus_to_exitcode(status)]

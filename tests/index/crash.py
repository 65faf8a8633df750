"""Rebuild an index again and again, failing at a later point each time, and print what a reader finds afterwards.

Run by test_index.py as `python crash.py MODE ROOT`. Each try is a forked child, which is quick because nothing has to
be imported again. Modes: `kill` ends the child at its n-th file operation; `kill-first` does so with nothing there
before; `full` lets no file grow beyond n bytes, as a full disk would.
"""

import json
import os
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from colbertz import Index, Ragged

OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "sqlite3.connect"}
OLD = Ragged.from_lengths(torch.full((20, 16), 0.25), [2] * 10)
NEW = Ragged.from_lengths(torch.full((1200, 16), 0.25), [40] * 30)


def kill_at(nth: int) -> None:
    """End this process without any clean-up before its n-th file operation."""
    seen = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        seen += event in OPERATIONS
        if seen == nth:
            os._exit(9)

    sys.addaudithook(count)


def limit_files(nth: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (nth * 4096, nth * 4096))


def rebuild(root: Path, prepare: Callable[[int], None], nth: int) -> tuple[int, str]:
    """Exit status of a child that builds NEW at `root`, and the name of the exception it met."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        prepare(nth)
        try:
            Index.build(root, NEW, overwrite=True)
        except Exception as error:  # noqa: BLE001
            os.write(write, type(error).__name__.encode())
            os._exit(1)
        os._exit(0)
    os.close(write)
    _, status = os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        return os.waitstatus_to_exitcode(status), pipe.read()


def found(root: Path) -> str:
    if not (root / "manifest.json").exists():
        return "nothing"
    index = Index.open(root)
    index.verify()
    return {len(OLD): "old", len(NEW): "new"}[len(index)]


def main(mode: str, root: Path) -> None:
    code, nth = -1, 0
    while code != 0:
        nth += 1
        shutil.rmtree(root, ignore_errors=True)
        if mode != "kill-first":
            Index.build(root, OLD)
        code, error = rebuild(root, limit_files if mode == "full" else kill_at, nth)
        files = sorted(path.name for path in root.iterdir()) if root.exists() else []
        print(json.dumps({"found": found(root), "error": error, "files": files}))
        Index.build(root, OLD, overwrite=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

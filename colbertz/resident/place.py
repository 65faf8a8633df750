"""Where the background process of this user is met, and by what client and process know that their code is the same.

There is one process for each user, installation and environment. The environment counts because the process has the
variables of the command that started it, and some of them say where models and indexes are.
"""

import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from colbertz import __version__

ENABLED = "COLBERTZ_RESIDENT"
# The folder that holds the package `colbertz` of this process.
PACKAGE_PARENT = str(Path(__file__).parents[2])
# Variables that change what a search reads or computes with, and beginnings of their names.
_ENVIRONMENT = ("HOME", "XDG_CACHE_HOME", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
_ENVIRONMENT_PREFIXES = ("COLBERTZ_", "HF_", "NUMBA_")
# Bytes of the longest path that a Unix socket can be bound to, where it is shortest (macOS: 104 with the final zero).
_LONGEST_SOCKET_PATH = 103


@dataclass(frozen=True)
class Place:
    """The files of a background process. All are in a folder that only the user can enter.

    Attributes:
        socket: where it listens.
        lock: locked by the process as long as the socket is its own.
        log: what it wrote to stderr.
    """

    socket: Path
    lock: Path
    log: Path


def is_enabled() -> bool:
    """Whether the user wants a background process: COLBERTZ_RESIDENT is not 0, and the system has Unix sockets."""
    return os.environ.get(ENABLED) != "0" and os.name == "posix"


def find_place() -> Place | None:
    """The place of this user, installation and environment; None if there is no folder that is private and writable."""
    name = _key()
    for folder in _folders():
        socket = folder / f"{name}.sock"
        if len(os.fsencode(socket)) <= _LONGEST_SOCKET_PATH and _is_private(folder):
            return Place(socket, folder / f"{name}.lock", folder / f"{name}.log")
    return None


def code_on_disk() -> str:
    """The version of colbertz, and a hash that changes when a source file of it does.

    Names, sizes and times of change are hashed, not contents: every search computes this.
    """
    digest = hashlib.blake2b(digest_size=8)
    for path, size, mtime_ns in sorted(_sources(f"{PACKAGE_PARENT}/colbertz")):
        digest.update(f"{path}\0{size}\0{mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return f"{__version__}+{digest.hexdigest()}"


def _sources(folder: str) -> Iterator[tuple[str, int, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                facts = entry.stat()
                yield entry.path, facts.st_size, facts.st_mtime_ns
            elif "." not in entry.name and entry.name != "__pycache__" and entry.is_dir():
                yield from _sources(entry.path)


def _key() -> str:
    """A short name that differs between installations, environments, and containers that share a folder of sockets."""
    root = Path("/").stat()
    variables = sorted(
        (name, value)
        for name, value in os.environ.items()
        if name != ENABLED and (name in _ENVIRONMENT or name.startswith(_ENVIRONMENT_PREFIXES))
    )
    parts = (sys.executable, sys.prefix, PACKAGE_PARENT, root.st_dev, root.st_ino, variables)
    return hashlib.blake2b(repr(parts).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def _folders() -> Iterator[Path]:
    """Where the socket may be, the best place first."""
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    if runtime.is_absolute() and _is_owned(runtime):
        yield runtime / "colbertz"
    yield Path(os.environ.get("TMPDIR") or "/tmp") / f"colbertz-run-{os.getuid()}"
    yield Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "colbertz" / "run"


def _is_private(folder: Path) -> bool:
    """Whether a folder can be made or is there, is the user's, and is closed to everybody else."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(0o700, exist_ok=True)
    except OSError:
        return False
    return _is_owned(folder) and os.access(folder, os.W_OK | os.X_OK)


def _is_owned(folder: Path) -> bool:
    """Whether this is a folder of the user, not a link to one, that others can neither read nor enter."""
    try:
        facts = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid() and not stat.S_IMODE(facts.st_mode) & 0o077

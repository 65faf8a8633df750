"""`Root`: the directory that a server serves, with any number of indexes.

    ROOT/NAME/                          an index, as `colbertz index` writes it
    ROOT/.server/NAME/config.json       its settings
    ROOT/.server/NAME/operations.log    its operations, see queue.py
    ROOT/.server/lock                   held by the process that serves the root, with its number

An index that was put into the root by other means is served too. One that was declared, and to which nothing was added
yet, has only its settings.
"""

import logging
import os
import re
import secrets
import shutil
import threading
import time
from pathlib import Path
from typing import IO

import torch

from colbertz.errors import UserError, check_path
from colbertz.files import sync_folder
from colbertz.index.store.layout import MANIFEST
from colbertz.index.store.manifest import Manifest
from colbertz.server.batching import EncodeBatcher
from colbertz.server.config import IndexConfig, Limits
from colbertz.server.errors import IndexExists, RootInUse, UnknownIndex
from colbertz.server.searching import SearchThreads
from colbertz.server.served import CONFIG, ServedIndex

logger = logging.getLogger(__name__)

STATE = ".server"
_LOCK = "lock"
# In the state of an index: what was the index, until all of it is removed.
_DROPPED = "dropped"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class Root:
    """The indexes in a directory. Threads share it. Close it at the end.

    Attributes:
        folder: the directory.
        encoder: for texts; None if the server has no model.
    """

    def __init__(self, folder: Path, encoder: EncodeBatcher | None, limits: Limits, lock: IO[str]) -> None:
        """Use `Root.open`."""
        self.folder = folder
        self.encoder = encoder
        self._limits = limits
        self._lock_file = lock
        self._threads = SearchThreads(limits.search_threads or torch.get_num_threads())
        self._changing = threading.Lock()
        self._open: dict[str, ServedIndex] = {}

    @classmethod
    def open(cls, folder: str | Path, encoder: EncodeBatcher | None = None, limits: Limits | None = None) -> "Root":
        """Serve the directory `folder`, which is created if it does not exist.

        Operations that wait in the logs of its indexes are applied.

        Args:
            folder: the directory.
            encoder: for texts; None to take embeddings only.
            limits: how much to take on; None for the defaults.

        Raises:
            RootInUse: if another process serves it.
            UserError: on a system without locks for files.
        """
        check_path("folder", folder)
        root = Path(folder).resolve()
        (root / STATE).mkdir(parents=True, exist_ok=True)
        opened = cls(root, encoder, limits or Limits(), _lock(root))
        for state in [*(root / STATE).iterdir()]:
            if state.suffix == f".{_DROPPED}" or os.path.lexists(state / _DROPPED):
                _remove(state)
        for name in opened.names():
            try:
                opened.index(name)
            except (UserError, OSError) as error:
                logger.error("the index %s is not served: %s", name, error)
        return opened

    def names(self) -> list[str]:
        """The names of the indexes, in the order of the alphabet."""
        declared = {path.parent.name for path in (self.folder / STATE).glob(f"*/{CONFIG}")}
        found = {path.parent.name for path in self.folder.glob(f"*/{MANIFEST}")}
        return sorted(name for name in declared | found if _NAME.fullmatch(name))

    def index(self, name: str) -> ServedIndex:
        """The index of this name.

        Raises:
            UnknownIndex: if there is none.
            UserError, OSError: if it cannot be read.
        """
        if name in self._open:
            return self._open[name]
        with self._changing:
            if name not in self._open:
                if name not in self.names():
                    raise UnknownIndex(f"there is no index {name!r:.80}; declare it first")
                self._open_index(name)
            return self._open[name]

    def declare(self, name: str, config: IndexConfig | None = None) -> ServedIndex:
        """Make an index without documents.

        Args:
            name: letters, digits, and `_`, `-` and `.` after the first; at most 128.
            config: its settings; None for the defaults.

        Raises:
            UserError: for another name.
            IndexExists: if there is an index, or anything else, of this name.
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(
                f"an index cannot be called {name!r:.200}; a name has letters, digits, and _ - . after the first of"
                " them, at most 128 together"
            )
        with self._changing:
            if name in self.names() or os.path.lexists(self.folder / name):
                raise IndexExists(f"there is an index or a folder {name!r} already; choose another name")
            (config or IndexConfig()).save(_new_state(self.folder, name) / CONFIG)
            return self._open_index(name)

    def drop(self, name: str) -> None:
        """Remove an index with all its documents, and with the operations that wait.

        Raises:
            UnknownIndex: if there is none.
        """
        with self._changing:
            if name not in self.names():
                raise UnknownIndex(f"there is no index {name!r:.80}")
            served = self._open.pop(name, None)
            if served is not None:
                served.stop()
            state, folder = _new_state(self.folder, name), self.folder / name
            # From the first rename on it is dropped, also if the process is killed before the rest is done.
            if os.path.lexists(folder):
                folder.rename(state / _DROPPED)
                sync_folder(self.folder)
            else:
                (state / _DROPPED).mkdir()
            sync_folder(state)
            if served is not None:
                served.close(0)
            _remove(state)

    def close(self, drain_seconds: float = 0) -> None:
        """Refuse new operations, and apply those that wait, for so many seconds at most. The rest stays in the logs."""
        deadline = time.monotonic() + drain_seconds
        with self._changing:
            for served in self._open.values():
                served.stop()
            ended = [served.close(max(0.0, deadline - time.monotonic())) for served in self._open.values()]
            self._threads.close()
            if all(ended):  # otherwise the lock is held until the process ends
                self._lock_file.close()

    def _open_index(self, name: str) -> ServedIndex:
        state = _new_state(self.folder, name)
        if not (state / CONFIG).exists():
            IndexConfig(nbits=Manifest.load(self.folder / name).nbits).save(state / CONFIG)
        served = ServedIndex(self.folder / name, state, self.encoder, self._threads, self._limits)
        self._open[name] = served
        return served


def _new_state(root: Path, name: str) -> Path:
    """The directory with the settings and the log of an index; it is created if it does not exist."""
    state = root / STATE / name
    state.mkdir(exist_ok=True)
    sync_folder(state.parent)
    return state


def _remove(state: Path) -> None:
    """Remove what is left of an index that was dropped."""
    if state.suffix != f".{_DROPPED}":
        state = state.rename(state.with_name(f".{state.name}.{secrets.token_hex(4)}.{_DROPPED}"))
        sync_folder(state.parent)
    shutil.rmtree(state)


def _lock(root: Path) -> IO[str]:
    """Lock the directory. The operating system opens the lock when the process ends."""
    try:
        import fcntl
    except ImportError:
        raise UserError("a server needs locks for files, which Linux and macOS have") from None
    file = (root / STATE / _LOCK).open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another one"
        file.close()
        raise RootInUse(
            f"{root} is served by process {holder} already; stop that, or serve another directory"
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file

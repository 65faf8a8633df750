"""`folder.sqlite`: what is known of the files of a folder, beside the ordinary index that holds the embeddings.

    files     each file: its path as bytes, size, mtime, inode, the hash of its content, when
              it was read, and why it was not read if that is so
    refs      each chunk of each file: the id of the chunk, its lines, page, heading and kind
    words     an FTS5 table over the words of path, heading and text of each row of `refs`
    pending   the texts of chunks that are not in the index yet
    dead      chunks of the index that no file has any more, and since when
    meta      a few values, see the constants below

The id of a chunk is the hash of its text. So a renamed file, a copy, or another branch has nothing new to encode.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from colbertz.errors import UserError
from colbertz.folders.places import STATE

# Another number: the tables are other ones, and the state is made again.
SCHEMA_VERSION = 1
# Keys of `meta`.
GENERATION = "generation"
ROOT = "root"
OPTIONS = "options"
MODEL = "model"
UPDATED = "updated"
SKIPPED = "skipped"
CHUNKER = "chunker"
# A random value that tells an index from another one in its place.
BIRTH = "birth"
_SCHEMA = """
CREATE TABLE files (
    id INTEGER PRIMARY KEY, path BLOB UNIQUE NOT NULL, size INTEGER, mtime_ns INTEGER, inode INTEGER,
    read_ns INTEGER, hash BLOB, skipped TEXT
);
CREATE TABLE refs (
    id INTEGER PRIMARY KEY, file INTEGER NOT NULL, chunk TEXT NOT NULL, "start" INTEGER, "end" INTEGER, page INTEGER,
    heading TEXT, kind TEXT, body_line INTEGER
);
CREATE INDEX refs_of_file ON refs (file);
CREATE INDEX refs_of_chunk ON refs (chunk);
CREATE VIRTUAL TABLE words USING fts5(path, heading, body, tokenize = "unicode61 remove_diacritics 2 tokenchars '_'");
CREATE TABLE pending (chunk TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE dead (chunk TEXT PRIMARY KEY, since REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
"""
# Seconds that a reader waits for a writer's checkpoint, and a writer for another one.
_BUSY_SECONDS = 10.0


class State:
    """A connection to `folder.sqlite`. One thread uses it at a time; each search opens its own."""

    def __init__(self, home: Path, *, writing: bool = False) -> None:
        """Open the state in the directory `home`.

        Args:
            home: the directory of a folder's index.
            writing: whether the tables are made if they are missing; the lock of `home` must be held then.

        Raises:
            UserError: if it is damaged, or missing and this is not for writing.
        """
        self.path = home / STATE
        if not writing and not self.path.is_file():
            raise UserError(f"there is no index of a folder in {home}")
        try:
            self.connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
            try:
                version = self.connection.execute("PRAGMA user_version").fetchone()[0]
            except sqlite3.OperationalError:
                if writing:
                    raise
                version = self._connect_without_writing()
            if writing and version != SCHEMA_VERSION:
                self._make_tables()
        except sqlite3.OperationalError as error:
            raise OSError(f"{self.path} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            raise UserError(f"{self.path} is damaged ({error}); run: colbertz clear") from error

    def _connect_without_writing(self) -> int:
        """Connect to a file whose disk is full or read-only, and return its schema's version.

        Readers of a file in WAL mode write a table of what they read. Without changes beside the file, which only a
        process that runs or was killed leaves, it can be read as one that nobody changes.
        """
        log = self.path.with_name(f"{self.path.name}-wal")
        if log.exists() and log.stat().st_size:
            raise sqlite3.OperationalError("it has changes that cannot be read while the disk is full or read-only")
        self.connection.close()
        self.connection = sqlite3.connect(f"{self.path.as_uri()}?immutable=1", uri=True, isolation_level=None)
        return int(self.connection.execute("PRAGMA user_version").fetchone()[0])

    def _make_tables(self) -> None:
        names = [row[0] for row in self.connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in names:
            if name in ("files", "refs", "words", "pending", "dead", "meta"):
                self.connection.execute(f"DROP TABLE {name}")
        # Readers see the last committed state while a writer is at work.
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        self.put(BIRTH, os.urandom(16).hex())

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> "State":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes of the block, or none of them."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """All reads of the block see one state."""
        self.connection.execute("BEGIN")
        try:
            yield
        finally:
            self.connection.execute("COMMIT")

    def rows(self, query: str, parameters: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        return self.connection.execute(query, tuple(parameters)).fetchall()

    def count(self, table: str) -> int:
        return int(self.rows(f"SELECT count(*) FROM {table}")[0][0])

    def get(self, key: str, default: Any = None) -> Any:
        """A value of `meta`."""
        rows = self.rows("SELECT value FROM meta WHERE key = ?", (key,))
        return json.loads(rows[0][0]) if rows else default

    def put(self, key: str, value: Any) -> None:
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    def next_generation(self) -> None:
        """Note that what can be found has changed."""
        self.put(GENERATION, self.get(GENERATION, 0) + 1)

    def pending_files(self) -> int:
        """How many files have chunks that are not encoded yet."""
        return int(self.rows("SELECT count(DISTINCT file) FROM refs WHERE chunk IN (SELECT chunk FROM pending)")[0][0])


def as_bytes(path: str) -> bytes:
    """A path as the state stores it: names of files need not be valid Unicode."""
    return os.fsencode(path)


def as_path(stored: bytes) -> str:
    return os.fsdecode(stored)

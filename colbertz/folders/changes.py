"""Which files of a folder have changed, and bringing their chunks into the state.

Three comparisons, each only for what the one before it did not settle: size, mtime and inode of a file; the hash of its
content; the hashes of its chunks. Only chunks whose hash is new are encoded later.

A file that was edited within the granularity of its mtime after it was read looks unchanged. As in Git's index, a file
whose mtime is not clearly older than the moment of reading is "racy": its content is hashed again next time.
"""

import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from colbertz.corpus.folder.chunks import CHUNKER_VERSION, chunks_of, read_content
from colbertz.corpus.folder.skipped import Skipped, SkippedFile
from colbertz.corpus.folder.walk import FoundFile, WalkOptions, walk
from colbertz.folders.state import CHUNKER, State, as_bytes, as_path
from colbertz.folders.words import indexed_words, path_words

# The coarsest mtime of file systems in use: FAT counts in steps of two seconds.
_GRANULARITY_NS = 2_000_000_000
# Files whose changes are committed together: a build that is killed loses no more than their chunking.
_FILES_AT_ONCE = 500
# Bytes of a chunk's id.
_ID_BYTES = 16

Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Changes:
    """What differs between a folder and its state.

    Attributes:
        changed: files that are new or have other content than the state knows; some only look so.
        removed: the state's ids of files that are gone.
        skipped: what the walk left out.
        touched: (id, file) of files with the known content, whose stat has changed.
    """

    changed: list[FoundFile]
    removed: list[int]
    skipped: Skipped
    touched: list[tuple[int, FoundFile]]

    def __len__(self) -> int:
        return len(self.changed) + len(self.removed)


def chunk_id(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[: 2 * _ID_BYTES]


def find_changes(state: State, root: Path, options: WalkOptions) -> Changes:
    """Compare a folder with its state."""
    found, skipped = walk(root, options)
    rows = state.rows("SELECT path, id, size, mtime_ns, inode, read_ns, hash FROM files")
    known = {as_path(path): rest for path, *rest in rows}
    same_chunker = state.get(CHUNKER) == CHUNKER_VERSION
    changed, touched = [], []
    for file in found:
        before = known.pop(file.path, None)
        if before is None or not same_chunker:
            changed.append(file)
            continue
        file_id, size, mtime_ns, inode, read_ns, digest = before
        same_stat = (size, mtime_ns, inode) == (file.size, file.mtime_ns, file.inode)
        if same_stat and mtime_ns + _GRANULARITY_NS < read_ns:
            continue
        if file.size == size and _hash(read_content(root / file.path, file.path)) == digest:
            touched.append((file_id, file))
        else:
            changed.append(file)
    return Changes(changed, [rest[0] for rest in known.values()], skipped, touched)


def bring_in(
    state: State,
    root: Path,
    changes: Changes,
    is_known: Callable[[Iterable[str]], Collection[str]],
    report: Report,
    stop: Callable[[], bool],
) -> int:
    """Put the changes into the state; chunks that are new become pending. Returns how many files were done.

    Args:
        state: open for writing.
        root: the folder.
        changes: as `find_changes` says.
        is_known: which of some chunks the index has.
        report: is told how many files are done, of how many.
        stop: whether to end early; what is done so far stays.
    """
    with state.transaction():
        _forget(state, changes.removed)
        now = time.time_ns()
        state.connection.executemany(
            "UPDATE files SET size = ?, mtime_ns = ?, inode = ?, read_ns = ? WHERE id = ?",
            [(file.size, file.mtime_ns, file.inode, now, file_id) for file_id, file in changes.touched],
        )
    done = 0
    for first in range(0, len(changes.changed), _FILES_AT_ONCE):
        if stop():
            return done
        batch = changes.changed[first : first + _FILES_AT_ONCE]
        with state.transaction():
            for file in batch:
                _bring_in_file(state, root, file, is_known)
                done += 1
                report(done, len(changes.changed), "files read")
            _bury(state)
    with state.transaction():
        _bury(state)
    return done


def _bring_in_file(
    state: State, root: Path, file: FoundFile, is_known: Callable[[Iterable[str]], Collection[str]]
) -> None:
    # Taken before the content is read: a file that is written to meanwhile looks changed, or racy, next time.
    read_ns = time.time_ns()
    content = read_content(root / file.path, file.path)
    chunked = content if isinstance(content, SkippedFile) else chunks_of(content, file.path)
    reason = chunked.reason if isinstance(chunked, SkippedFile) else None
    chunks = [] if isinstance(chunked, SkippedFile) else [chunk for chunk in chunked if chunk.text.strip()]
    path = as_bytes(file.path)
    known = state.rows("SELECT id FROM files WHERE path = ?", (path,))
    _forget(state, [row[0] for row in known])
    values = (path, file.size, file.mtime_ns, file.inode, read_ns, _hash(content), reason)
    execute = state.connection.execute
    file_id = execute(
        "INSERT INTO files (path, size, mtime_ns, inode, read_ns, hash, skipped) VALUES (?, ?, ?, ?, ?, ?, ?)", values
    ).lastrowid
    ids = [chunk_id(chunk.text) for chunk in chunks]
    indexed = is_known(ids)
    words_of_path = path_words(file.path)
    for key, chunk in zip(ids, chunks):
        row = (file_id, key, chunk.start, chunk.end, chunk.page, chunk.heading, chunk.kind, chunk.body_line)
        ref = execute(
            'INSERT INTO refs (file, chunk, "start", "end", page, heading, kind, body_line)'
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            row,
        ).lastrowid
        words = (ref, words_of_path, indexed_words(chunk.heading), indexed_words(chunk.text))
        execute("INSERT INTO words (rowid, path, heading, body) VALUES (?, ?, ?, ?)", words)
        if key not in indexed:
            execute("INSERT OR IGNORE INTO pending VALUES (?, ?)", (key, chunk.text))


def _hash(content: bytes | SkippedFile) -> bytes | None:
    """What tells one content of a file from another; None for a file that is not read."""
    return None if isinstance(content, SkippedFile) else hashlib.sha256(content).digest()


def _forget(state: State, files: Sequence[int]) -> None:
    """Remove files with all that belongs to them. Their chunks stay in the index."""
    now = time.time()
    for file_id in files:
        refs = [row[0] for row in state.rows("SELECT id FROM refs WHERE file = ?", (file_id,))]
        state.connection.execute("INSERT OR IGNORE INTO dead SELECT chunk, ? FROM refs WHERE file = ?", (now, file_id))
        state.connection.executemany("DELETE FROM words WHERE rowid = ?", [(ref,) for ref in refs])
        state.connection.execute("DELETE FROM refs WHERE file = ?", (file_id,))
        state.connection.execute("DELETE FROM files WHERE id = ?", (file_id,))


def _bury(state: State) -> None:
    """Keep as dead what no file has, and drop what need not be encoded any more."""
    state.connection.execute("DELETE FROM dead WHERE chunk IN (SELECT chunk FROM refs)")
    state.connection.execute("DELETE FROM pending WHERE chunk NOT IN (SELECT chunk FROM refs)")

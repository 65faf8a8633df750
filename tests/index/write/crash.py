"""Change an index in every way, failing at a later point each time, and print what is found afterwards.

Run by test_storage.py as `python crash.py FAILURE ROOT OPERATION:STEP …`, with tests/ in PYTHONPATH. Each try is a
forked child, which is quick because nothing has to be imported or compiled again. Failures:

    kill       the child ends without any clean-up (as by kill -9): what Python and SQLite hold in buffers is lost
    interrupt  KeyboardInterrupt is raised
    limit      no file may grow beyond n KB: writes fail with EFBIG, also those of SQLite
    space      n pages are left on the file system, which should be a small one: writes fail with ENOSPC

The first two come at the n-th point after the operation has got the lock. Points are all operations that change the
disk and that Python reports to audit hooks (opening for writing, rename, mkdir, …), all fsyncs, and, so that there are
some between two writes to the same file, every twelfth of the lines of the modules that write, the first two times that
each is reached (by `sys.settrace`). There is a try for each STEP-th point; the tests leave some out to be quick. With a
STEP of 1 all operations together have about 1,040.

After each try the index must be in the old state, in the new one, or in the new one before segments were merged
("unmerged"); every file must have its checksum, and the next writer must get it into exactly the files that the
operation leaves when nothing fails.
"""

import json
import logging
import os
import resource
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from crashes import ending

from colbertz import Index, Ragged
from colbertz.index.write.compact import compact
from colbertz.index.write.stream import DocumentStream
from colbertz.index.write.update import add

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "sqlite3.connect"}
LINES = 12
WRITERS = ("/colbertz/index/write/", "/colbertz/index/store/", "/colbertz/files.py")
# Every operation copies, codes or stores so few tokens at a time that it does so several times.
TOKENS_AT_ONCE = 12


def embeddings(count: int, seed: int, scale: float = 1) -> Ragged:
    lengths = [1 + (number + seed) % 4 for number in range(count)]
    values = torch.randn(sum(lengths), 16, generator=torch.Generator().manual_seed(seed))
    return Ragged.from_lengths(torch.nn.functional.normalize(values, dim=1) * scale, lengths)


def described(ids: list[str], version: str) -> dict[str, Any]:
    texts = [f"text of {id} {version}" for id in ids]
    return {"ids": ids, "texts": texts, "metadata": [{"version": version, "length": len(id)} for id in ids]}


OLD = [f"old{number}" for number in range(12)]
ADDED = [f"added{number}" for number in range(5)]


def start(root: Path) -> None:
    """Two segments, with deleted documents in the first."""
    index = Index.build(root, embeddings(12, 0), **described(OLD, "1"))
    index.add(embeddings(5, 1), **described(ADDED, "1"))
    index.delete(["old3", "old7"])


def rebuild(root: Path) -> None:
    new = embeddings(14, 2)
    texts = described([f"new{number}" for number in range(14)], "2")
    Index.build(
        root,
        lambda first: [new[first : first + 4], new[first + 4 :]],
        **texts,
        overwrite=True,
        chunk_tokens=TOKENS_AT_ONCE,
    )


# Added documents are far from all centroids, so that there is a new codec too, and replace some in both segments. The
# new segment is merged with the second. Thinning deletes most of the first segment, which is then written again.
OPERATIONS: dict[str, Callable[[Path], object]] = {
    "first": rebuild,
    "rebuild": rebuild,
    "add": lambda root: add(
        root,
        DocumentStream.from_columns(**described(["more", *ADDED[:3], *OLD[:2]], "3")),
        embeddings(6, 3, scale=3),
        on_duplicate="replace",
        chunk_tokens=TOKENS_AT_ONCE,
    ),
    "update": lambda root: add(
        root,
        DocumentStream.from_columns(**described(ADDED, "4")),
        embeddings(5, 4),
        on_duplicate="replace",
        only_known=True,
        chunk_tokens=TOKENS_AT_ONCE,
    ),
    "delete": lambda root: Index.open(root).delete(["old0", "added1", "old11"]),
    "thin": lambda root: Index.open(root).delete([*OLD[:3], *OLD[4:6], *ADDED[:2]]),
    "compact": lambda root: compact(root, block_tokens=TOKENS_AT_ONCE),
    "retrain": lambda root: compact(root, retrain=True, block_tokens=TOKENS_AT_ONCE),
}


def at_points(fail: Callable[[], None]) -> Callable[[int], None]:
    """Call `fail` at the n-th point."""

    def prepare(nth: int) -> None:
        locked = False
        points = num_lines = 0
        lines: Counter[tuple[str, int]] = Counter()

        def point() -> None:
            nonlocal points
            points += locked
            if points == nth:
                fail()

        def audit(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal locked
            locked = locked or event == "fcntl.flock"
            if event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
                point()

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            if not any(name in frame.f_code.co_filename for name in WRITERS):
                return None
            if event == "line" and locked:
                nonlocal num_lines
                lines[frame.f_code.co_filename, frame.f_lineno] += 1
                if lines[frame.f_code.co_filename, frame.f_lineno] <= 2:
                    num_lines += 1
                    if num_lines % LINES == 0:
                        point()
            return trace

        os.fsync = lambda handle: point()
        sys.addaudithook(audit)
        sys.settrace(trace)

    return prepare


def kill() -> None:
    os._exit(9)


def interrupt() -> None:
    raise KeyboardInterrupt


def limit_files(nth: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (nth * 1024, nth * 1024))


def fill_disk(nth: int, root: Path) -> None:
    there = os.statvfs(root)
    with (root.parent / "filler").open("wb") as file:
        file.write(bytes((there.f_bavail - nth) * there.f_bsize))


def attempt(operation: Callable[[Path], object], root: Path, prepare: Callable[[int], None], nth: int) -> str | None:
    """The name of the exception that a child meets, "killed", or None if it is done."""

    def run() -> None:
        prepare(nth)
        operation(root)

    return ending(run, lambda error: type(error).__name__)


def is_unmerged(found: Any, new: Any) -> bool:
    """Whether a reader finds the same as in the new state, in an earlier generation."""
    return found is not None and found[0] < new[0] and found[1:] == new[1:]


def state(root: Path) -> Any:
    """What a reader finds; raises if anything is damaged."""
    if not (root / "manifest.json").exists():
        return None
    index = Index.open(root)
    index.check()
    hits = index.search(embeddings(2, 5), k=100)
    assert all(len(found) == len(index) for found in hits)
    return (
        index.manifest.generation,
        len(index),
        [[(hit.id, hit.text, hit.metadata, hit.score) for hit in found] for found in hits],
    )


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def main(failure: str, name: str, root: Path, step: int) -> None:
    operation = OPERATIONS[name]
    before, after = root.with_name("before"), root.with_name("after")
    before.mkdir(parents=True)
    if name != "first":
        start(before)
    shutil.copytree(before, after)
    operation(after)
    states = {"old": state(before), "new": state(after)}
    expected = files(after)
    prepare = {
        "kill": at_points(kill),
        "interrupt": at_points(interrupt),
        "limit": limit_files,
        "space": lambda nth: fill_disk(nth, root),
    }[failure]
    nth = 1
    error: str | None = ""
    outcome = ""
    while error is not None or outcome == "unmerged":
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(before, root)
        error = attempt(operation, root, prepare, nth)
        root.with_name("filler").unlink(missing_ok=True)
        try:
            found = state(root)
            outcome = next((label for label, known in states.items() if known == found), "neither")
            if outcome == "neither" and is_unmerged(found, states["new"]):
                outcome = "unmerged"
            unchanged = files(root) == files(before)
            if outcome == "old":
                operation(root)
            else:
                Index.open(root).delete([])
            repaired = files(root) == expected
        except Exception as broken:
            raise AssertionError(f"{failure} {name}, try {nth}, ended by {error}") from broken
        print(
            json.dumps(
                {"operation": name, "error": error, "found": outcome, "unchanged": unchanged, "repaired": repaired}
            )
        )
        nth += step


if __name__ == "__main__":
    logging.disable()  # of advice to compact
    torch.set_num_threads(1)  # a forked child has none of its parent's threads
    os.fsync = lambda handle: None  # a kill does not lose what the system has, so waiting would only take time
    for name, step in (argument.split(":") for argument in sys.argv[3:]):
        main(sys.argv[1], name, Path(sys.argv[2]) / name / "index", int(step))

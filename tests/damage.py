"""Damaging an index in known ways, and what comes of it: the right answer, an error for people, or something worse.

The trials run in forked children, because a wrong index into an array may end the process. `outcome` says how one
ended.
"""

import json
import os
import random
import resource
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from colbertz import Index, Ragged
from colbertz.errors import UserError
from colbertz.index.search.options import SearchOptions
from colbertz.index.search.plan import Limits
from colbertz.index.search.search import search_maxsim
from colbertz.index.store.checksums import checksum
from colbertz.index.store.manifest import sealed
from colbertz.kernels.cpu import sums

# What a trial may end with.
SAME = "the right answer"
REFUSED = "an error of the user"
# Seconds after which a trial hangs, and bytes that it may take beyond what the process has.
SECONDS = 60
MEMORY = 1 << 30


def outcome(answer: Callable[[], Any], expected: Any) -> str:
    """Call `answer` in a child process: SAME if it returns `expected`, REFUSED for an error for people, else what."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        try:
            torch.set_num_threads(1)
            signal.alarm(SECONDS)
            with suppress(OSError, ValueError):  # macOS does not limit memory
                pages = int(Path("/proc/self/statm").read_text().split()[0])
                resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
            os.write(write, _told(answer, expected).encode(errors="replace")[:4000])
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return f"signal {signal.Signals(os.WTERMSIG(status)).name}"
    return told or "nothing was said"


def _told(answer: Callable[[], Any], expected: Any) -> str:
    try:
        found = answer()
    except (UserError, OSError):
        return REFUSED
    except BaseException:  # noqa: BLE001 (every error is an outcome)
        return traceback.format_exc()
    return SAME if found == expected else f"another answer: {found!r}"


def searched_by_lists(index: Index, queries: Ragged) -> list[Any]:
    """Hits of a search that reads inverted lists, as those of large indexes do."""
    limits = Limits(all_exact=16, once_tokens=0, base=32, budget_tokens=1)
    options = SearchOptions(n_ivf_probe=4, n_full_scores=60)
    return search_maxsim(index.snapshot, queries, 5, options, limits=limits)


@contextmanager
def restored(root: Path) -> Iterator[None]:
    """Put every file of a folder back as it was when the block ends."""
    before = {path: (path.read_bytes(), path.stat()) for path in root.rglob("*") if path.is_file()}
    try:
        yield
    finally:
        for path in [path for path in root.rglob("*") if not path.is_dir() and path not in before]:
            path.unlink()
        for path, (content, about) in before.items():
            if path.is_dir():
                path.rmdir()
            if not path.is_file() or path.stat().st_size != len(content) or path.read_bytes() != content:
                path.unlink(missing_ok=True)
                path.write_bytes(content)
            os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def flip(path: Path, place: int, bit: int) -> None:
    """Flip a bit of the byte at `place`."""
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ (1 << bit)]))


def flips(path: Path, count: int, seed: int) -> Iterator[tuple[int, int]]:
    """Places and bits, for `flip`. Half of the places are beyond the first page; some are high bits of numbers."""
    random_numbers = random.Random(f"{path.name} {seed}")
    size = path.stat().st_size
    for trial in range(count):
        first = min(4096, size // 2) if trial % 2 else 0
        place = random_numbers.randrange(first, size)
        # The last byte of a number of 4 bytes, which begins at a multiple of 4, has its highest bits.
        yield (place | 3 if trial % 4 == 3 and place | 3 < size else place), random_numbers.randrange(8)


def edit_array(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Write what `change` returns for the array in a file."""
    array = np.load(path, allow_pickle=False)
    with path.open("wb") as file:
        np.save(file, change(array.copy()), allow_pickle=True)


def recompute_checksums(root: Path, *, parts: bool = True) -> None:
    """Make an index of colbertz agree with its checksums again, as a hostile writer does.

    Args:
        root: the index.
        parts: the checksums of documents and lists too, where the arrays still fit each other.
    """
    manifest = json.loads((root / "manifest.json").read_text())
    for segment in manifest["segments"] if parts else []:
        with suppress(ValueError, TypeError, IndexError):
            _recompute_parts(root / segment["name"])
    for name in manifest["files"]:
        if (root / name).is_file():
            manifest["files"][name] = vars(checksum(root / name))
    text = json.dumps(manifest)
    (root / "manifest.json").write_text(sealed(text, manifest["sha256"]))


def _recompute_parts(folder: Path) -> None:
    codes, residuals, norms, doclens, ivf, lengths = (
        np.load(folder / f"{name}.npy", allow_pickle=False)
        for name in ("codes", "residuals", "inverse_norms", "doclens", "ivf", "ivf_lengths")
    )
    offsets, list_offsets = (np.concatenate([[0], np.cumsum(x.astype(np.int64))]) for x in (doclens, lengths))
    kinds = [(array.dtype.str, array.ndim) for array in (codes, residuals, norms, ivf, doclens, lengths)]
    if kinds != [("<u2", 1), ("|u1", 2), ("<f4", 1), *[("<i4", 1)] * 3]:
        return
    for bounds, arrays in ((offsets, (codes, residuals, norms)), (list_offsets, (ivf,))):
        if (np.diff(bounds) < 0).any() or any(len(array) != bounds[-1] for array in arrays):
            return
    documents = sums.document_checksums(offsets, codes, residuals, norms)
    lists = sums.checksums(ivf, list_offsets)
    np.save(folder / "document_checksums.npy", documents)
    np.save(folder / "list_checksums.npy", lists)

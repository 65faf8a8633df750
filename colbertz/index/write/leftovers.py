"""Removing what killed writers left, and nothing else.

A file is colbertz's if both its name and the name of its folder are. Other files stay where they are, even in a folder
of ours; only a build refuses to begin beside them.
"""

import functools
import re
from collections.abc import Iterator
from pathlib import Path

from colbertz.errors import UserError
from colbertz.files import is_temporary, remove_known
from colbertz.index.store.layout import BUILD, CODEC_FILES, MANIFEST, PROGRESS, SegmentFiles

_CODEC = "|".join(map(re.escape, CODEC_FILES))
_SEGMENT_FILES = SegmentFiles(Path())
_SEGMENT = "|".join(re.escape(path.name) for path in (*_SEGMENT_FILES.arrays, *_SEGMENT_FILES.checksums))
_SEGMENT += r"|documents(-[0-9]{6,})?\.sqlite|deleted-[0-9]{6,}\.npy"
# Folders and files, relative to an index.
_FOLDERS = re.compile(rf"(codec|segment)-[0-9]{{6,}}|{BUILD}|{BUILD}/(chunks|codec|segment)")
_FILES = re.compile(
    rf"{re.escape(MANIFEST)}|codec-[0-9]{{6,}}/({_CODEC})|segment-[0-9]{{6,}}/({_SEGMENT})|{re.escape(PROGRESS)}"
    rf"|{BUILD}/chunks/[0-9]{{6,}}\.(npy|json)|{BUILD}/codec/({_CODEC})|{BUILD}/segment/({_SEGMENT})"
)


def is_ours(root: Path, path: Path) -> bool:
    """Whether a file or folder in the index `root`, at any depth, has a name that colbertz gives there."""
    if path.parent != root and not is_ours(root, path.parent):
        return False
    name = path.relative_to(root).as_posix()
    if path.is_dir():
        return _FOLDERS.fullmatch(name) is not None
    return path.is_file() and (is_temporary(path) or _FILES.fullmatch(name) is not None)


def others(root: Path, path: Path) -> Iterator[Path]:
    """What is not colbertz's of a file or folder in the index `root`: the path itself, or what is in it."""
    if not is_ours(root, path):
        yield path
    elif path.is_dir() and not path.is_symlink():
        for inner in sorted(path.iterdir()):
            yield from others(root, inner)


def remove(root: Path, path: Path) -> None:
    """Remove a file or folder in the index `root`, as far as it is colbertz's."""
    remove_known(path, functools.partial(is_ours, root))


def check_build_folder(root: Path) -> None:
    """Check that nothing but an earlier build is where an index is built.

    Raises:
        UserError: naming what else is there.
    """
    build = root / BUILD
    if build.exists() and (other := next(others(root, build), None)):
        raise UserError(f"{other} is not colbertz's, which builds an index in {build}; move it to another place")

"""The files of a folder, without opening any but the ignore files.

A directory is listed once, and what is ignored is not entered. Symbolic links are not followed: a link out of the
folder leaves it, and the target of a link inside it is found under its own name. So there are no loops and no copies.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from colbertz.corpus.folder import kinds, skipped
from colbertz.corpus.folder.ignore import Rules, parse_rules
from colbertz.corpus.folder.repository import git_root, read_rules, repository_rules
from colbertz.corpus.folder.skipped import Skipped

# Ignore files that are not Git's, the strongest first. The patterns of one in any directory are stronger than those of
# a weaker one in any other, as in ripgrep. An exclamation mark in them brings hidden and default-ignored files back.
_OWN_IGNORE_FILES = (".colbertzignore", ".ignore")
# The levels of rules, the strongest first: those of the files above, the default patterns, `.gitignore`, and
# what Git reads besides.
_DEFAULTS = len(_OWN_IGNORE_FILES)
_GITIGNORES = _DEFAULTS + 1
_OUTER_OF_GIT = _DEFAULTS + 2
_LEVEL_OF_FILE = {**{name: level for level, name in enumerate(_OWN_IGNORE_FILES)}, ".gitignore": _GITIGNORES}
# Never read, not even hidden files are asked for: the stores of version control.
_VERSION_CONTROL = frozenset([".git", ".hg", ".svn", ".jj", ".bzr", ".colbertz"])
# What every folder ignores unless one of its ignore files says otherwise, such as `!node_modules/` in .colbertzignore.
_DEFAULT_PATTERNS = """
node_modules/ bower_components/ jspm_packages/ __pycache__/ *.egg-info/ *.dist-info/ venv/ virtualenv/
.venv/ .tox/ .nox/ .eggs/ .mypy_cache/ .pytest_cache/ .ruff_cache/ .hypothesis/ .cache/ .gradle/ .terraform/ .next/
.nuxt/ .svelte-kit/ .parcel-cache/ .ipynb_checkpoints/ .DS_Store *.pyc *~ *.swp changelog*.gz NEWS*.gz
""".split()
# A directory with one of these files is a cache or a virtual environment.
_MARKERS_OF_IGNORED = frozenset(["CACHEDIR.TAG", "pyvenv.cfg"])


class FoundFile(NamedTuple):
    """A file that may be read.

    Attributes:
        path: relative to the folder, with slashes. Bytes that are not UTF-8 are kept as by `os.fsdecode`.
        size: in bytes.
        mtime_ns: when it changed last, in nanoseconds.
        inode: its number in the file system.
    """

    path: str
    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True)
class WalkOptions:
    """Which files of a folder count.

    Attributes:
        include: patterns as in an ignore file; without any, all files count, otherwise those that match one.
        exclude: patterns of files and directories that do not count.
        hidden: whether names that begin with a dot count.
        ignore_files: whether ignore files and the default patterns are obeyed.
        max_bytes: the largest file, in bytes. For PDF and docx see `max_document_bytes`.
        max_document_bytes: the largest PDF or docx file, in bytes.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    hidden: bool = False
    ignore_files: bool = True
    max_bytes: int = 2_000_000
    max_document_bytes: int = 100_000_000


DEFAULT_OPTIONS = WalkOptions()


def path_filter(include: Iterable[str], exclude: Iterable[str]) -> Callable[[str], bool]:
    """A function that tells of a path whether `include` and `exclude` of `WalkOptions` let it through."""
    included, excluded = parse_rules(include), parse_rules(exclude)

    def accepts(path: str) -> bool:
        return (included is None or _matches(included, path)) and (excluded is None or not _matches(excluded, path))

    return accepts


def _matches(rules: Rules, path: str) -> bool:
    """Whether a pattern matches a file or, failing that, a directory that it is in."""
    is_directory = False
    while path:
        verdict = rules.ignores(path, path.rpartition("/")[2], is_directory)
        if verdict is not None:
            return verdict
        path, is_directory = path.rpartition("/")[0], True
    return False


def walk(root: Path, options: WalkOptions = DEFAULT_OPTIONS) -> tuple[list[FoundFile], Skipped]:
    """The files of a folder in the order of their paths, and what was left out.

    Raises:
        OSError: if the folder itself cannot be listed.
    """
    accepts = path_filter(options.include, options.exclude) if options.include or options.exclude else None
    excluded = parse_rules(options.exclude)
    files: list[FoundFile] = []
    left = Skipped()
    pending: list[tuple[str, tuple[list[Rules], ...]]] = [("", _outer_rules(root) if options.ignore_files else ())]
    while pending:
        base, rules = pending.pop()
        try:
            with os.scandir(root / base) as listing:
                entries = list(listing)
        except OSError:
            if not base:
                raise
            left.add(skipped.UNREADABLE)
            continue
        names = {entry.name for entry in entries}
        if options.ignore_files:
            if base and not _MARKERS_OF_IGNORED.isdisjoint(names):
                left.add(skipped.IGNORED)
                continue
            rules = _inner_rules(root, base, names, rules)
        for entry in entries:
            name = entry.name
            path = base + name
            if entry.is_symlink():
                left.add(skipped.LINK)
                continue
            is_directory = entry.is_dir(follow_symlinks=False)
            reason = _left_out(path, name, is_directory, rules, options)
            if reason is None and is_directory:
                if excluded is None or not excluded.ignores(path, name, True):
                    pending.append((f"{path}/", rules))
                    continue
                reason = skipped.EXCLUDED
            elif reason is None and accepts is not None and not accepts(path):
                reason = skipped.EXCLUDED
            if reason is not None:
                left.add(reason)
                continue
            found = _found(entry, path, options, left)
            if found is not None:
                files.append(found)
    files.sort()
    return files, left


def _left_out(
    path: str, name: str, is_directory: bool, rules: tuple[list[Rules], ...], options: WalkOptions
) -> str | None:
    """Why a file or directory does not count by its name; None if it counts."""
    if name in _VERSION_CONTROL:
        return skipped.HIDDEN
    brought_back = False
    for strength, level in enumerate(rules):
        verdict = next((v for file in level if (v := file.ignores(path, name, is_directory)) is not None), None)
        if verdict:
            return skipped.IGNORED
        if verdict is False:
            brought_back = strength < _GITIGNORES
            break
    return skipped.HIDDEN if name[0] == "." and not options.hidden and not brought_back else None


def _found(entry: os.DirEntry[str], path: str, options: WalkOptions, left: Skipped) -> FoundFile | None:
    """The file if it can be one to read, by its name and size; else it is counted in `left`."""
    try:
        if not entry.is_file(follow_symlinks=False):
            left.add(skipped.SPECIAL)
            return None
        status = entry.stat(follow_symlinks=False)
    except OSError:  # it vanished
        left.add(skipped.UNREADABLE)
        return None
    name, size = entry.name, status.st_size
    if kinds.is_binary_name(name):
        reason = skipped.BINARY
    elif kinds.is_generated_name(name):
        reason = skipped.GENERATED
    elif size > options.max_bytes and (
        size > options.max_document_bytes or not name.lower().endswith((".pdf", ".docx"))
    ):
        reason = skipped.HUGE
    elif size == 0:
        reason = skipped.EMPTY
    else:
        return FoundFile(path, size, status.st_mtime_ns, status.st_ino)
    left.add(reason, size)
    return None


def _outer_rules(root: Path) -> tuple[list[Rules], ...]:
    """The rules from outside the folder: the default patterns, and those of its parents up to the repository's root.

    Levels are in the order of their strength, and in each level the nearest directory comes first.
    """
    real = root.resolve()
    repository = git_root(real)
    defaults = parse_rules(_DEFAULT_PATTERNS)
    levels: list[list[Rules]] = [[] for _ in range(_OUTER_OF_GIT + 1)]
    levels[_DEFAULTS] = [defaults] if defaults is not None else []
    if repository is None:
        return tuple(levels)
    for parent in real.parents:
        if not parent.is_relative_to(repository):
            break
        for name, level in _LEVEL_OF_FILE.items():
            rules = read_rules(parent / name, above=f"{real.relative_to(parent).as_posix()}/")
            if rules is not None:
                levels[level].append(rules)
    above = "" if repository == real else f"{real.relative_to(repository).as_posix()}/"
    levels[_OUTER_OF_GIT] = repository_rules(repository, above=above)
    return tuple(levels)


def _inner_rules(root: Path, base: str, names: set[str], rules: tuple[list[Rules], ...]) -> tuple[list[Rules], ...]:
    """The rules inside a directory: its own ignore files are stronger than those of its parents.

    A repository inside the folder has its own: no `.gitignore` from outside it counts.
    """
    is_repository = bool(base) and ".git" in names
    if names.isdisjoint(_LEVEL_OF_FILE) and not is_repository:
        return rules
    levels = list(rules)
    if is_repository:
        levels[_GITIGNORES] = []
        levels[_OUTER_OF_GIT] = repository_rules(root / base, base=base)
    for name, level in _LEVEL_OF_FILE.items():
        if name in names:
            own = read_rules(root / f"{base}{name}", base=base)
            if own is not None:
                levels[level] = [own, *levels[level]]
    return tuple(levels)

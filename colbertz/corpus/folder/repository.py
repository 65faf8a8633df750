"""The ignore files that apply to a folder from outside it: of the repository that it lies in, and of the user."""

import os
import re
from pathlib import Path

from colbertz.corpus.folder.ignore import Rules, parse_rules

# Bytes of an ignore file or a Git configuration that are read at most: real ones have some thousands.
_MAX_BYTES = 1 << 20
_EXCLUDES_FILE = re.compile(r"(?im)^\s*excludesfile\s*=\s*(.+?)\s*$")
_CORE = re.compile(r"(?ims)^\s*\[core\](.*?)(?=^\s*\[|\Z)")


def read_rules(path: Path | str, base: str = "", above: str = "") -> Rules | None:
    """The rules of an ignore file; None if there is no such file, it cannot be read, or it has no patterns."""
    text = _read(path)
    if not text:
        return None
    lines = [line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n")]
    return parse_rules(lines, base, above)


def git_root(folder: Path) -> Path | None:
    """The root of the repository that a folder lies in, or None."""
    return next((parent for parent in (folder, *folder.parents) if (parent / ".git").exists()), None)


def repository_rules(root: Path, base: str = "", above: str = "") -> list[Rules]:
    """What `.git/info/exclude` of a repository and the user's own file for all repositories say, strongest first."""
    git = _common_directory(root)
    found = [read_rules(git / "info/exclude", base, above), read_rules(_user_excludes(), base, above)]
    return [rules for rules in found if rules is not None]


def _common_directory(root: Path) -> Path:
    """The `.git` directory; of a worktree, that of the repository it belongs to, which has `info/exclude`."""
    git = root / ".git"
    if git.is_dir():
        return git
    directory = _read(git).partition("gitdir:")[2].strip()
    if not directory:
        return git
    git = root / directory
    common = _read(git / "commondir").strip()
    return git / common if common else git


def _user_excludes() -> Path:
    """The file that `core.excludesFile` names, or Git's default for it."""
    home = Path.home()
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "git"
    for configuration in (home / ".gitconfig", settings / "config"):
        core = "".join(_CORE.findall(_read(configuration)))
        named = _EXCLUDES_FILE.findall(core)
        if named:
            return Path(named[-1].strip('"')).expanduser()
    return settings / "ignore"


def _read(path: Path | str) -> str:
    """The text of a small file; "" if there is none. Bytes that are not UTF-8 are kept as in file names."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError):
        return ""
    with os.fdopen(descriptor, "rb") as file:
        try:
            return os.fsdecode(file.read(_MAX_BYTES) or b"")
        except OSError:  # a directory, or a failing disk
            return ""

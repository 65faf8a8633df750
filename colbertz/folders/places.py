"""Where the index of a folder is, and which folder a path belongs to. The standard library only.

An index is in the user's cache folder, in a directory that is named after the folder and a hash of its real path; in
`.colbertz/` of the folder if there is such a directory; or where the user says.
"""

import hashlib
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from colbertz.errors import UserError

# The directory in a folder that holds its index, if the user made one.
OWN = ".colbertz"
# The file by which the directory of a folder's index is recognised.
STATE = "folder.sqlite"


def home_of(root: Path, index: str | Path | None = None) -> Path:
    """The directory of the index of the folder `root`, whether or not it is there.

    Args:
        root: the folder.
        index: the directory that the user chose; None for the usual place.
    """
    if index is not None:
        return Path(index).absolute()
    real = Path(os.path.realpath(root))
    if (real / OWN).is_dir():
        return real / OWN
    digest = hashlib.sha256(os.fsencode(real)).hexdigest()[:16]
    name = re.sub(r"[^\w.-]+", "-", real.name, flags=re.ASCII)[:40] or "root"
    return cache_folder() / f"{name}-{digest}"


def cache_folder() -> Path:
    """The directory of all folders' indexes: in the user's cache, or in the temporary folder if that is read-only.

    Raises:
        UserError: if the one in the temporary folder could be written by somebody else.
    """
    if sys.platform == "darwin" and "XDG_CACHE_HOME" not in os.environ:
        caches = Path("~/Library/Caches").expanduser()
    else:
        # The specification of XDG says that a relative path is to be ignored.
        given = os.environ.get("XDG_CACHE_HOME", "")
        caches = Path(given) if Path(given).is_absolute() else Path("~/.cache").expanduser()
    folder = caches / "colbertz" / "folders"
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if os.access(nearest, os.W_OK | os.X_OK):
        return folder
    own = Path(tempfile.gettempdir()) / f"colbertz-{os.getuid()}"
    if os.path.lexists(own):
        facts = own.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o022:
            raise UserError(
                f"{own} is not a directory of yours that only you can write; remove it, or choose a place with --index"
            )
    return own / "folders"


def is_folder_index(path: Path) -> bool:
    """Whether a directory is the index of a folder, and not an ordinary index."""
    return (path / STATE).is_file()


def root_of(path: Path) -> Path:
    """The folder whose index answers for the folder `path`: itself, or one above it that has an index.

    Only folders of the same Git repository are taken: an index of the home folder does not take over every project.
    """
    real = Path(os.path.realpath(path))
    if is_folder_index(home_of(real)):
        return real
    top = repository_of(real)
    if top is None:
        return real
    above = [folder for folder in real.parents if folder == top or top in folder.parents]
    return next((folder for folder in above if is_folder_index(home_of(folder))), real)


def repository_of(folder: Path) -> Path | None:
    """The top folder of the Git work tree that a folder is in, None if it is in none."""
    return next((path for path in (folder, *folder.parents) if (path / ".git").exists()), None)


def siblings_of(root: Path) -> Iterator[Path]:
    """The same folder in the other work trees of its Git repository, see `git worktree`.

    Read from Git's files: `.git` of a linked work tree is a file that names its directory in the repository, whose
    file `commondir` names the repository; `worktrees/*/gitdir` there name the `.git` files of all linked work trees.
    """
    top = repository_of(root)
    if top is None:
        return
    common = top / ".git"
    if common.is_file():
        private = top / common.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        pointer = private / "commondir"
        if not pointer.is_file():
            return  # a submodule
        common = (private / pointer.read_text(encoding="utf-8").strip()).resolve()
    gitdirs = [path.read_text(encoding="utf-8").strip() for path in sorted(common.glob("worktrees/*/gitdir"))]
    for other in [common.parent, *(Path(gitdir).parent for gitdir in gitdirs)]:
        if other != top and (other / ".git").exists():
            yield other / root.relative_to(top)

"""Reading files that come from somewhere else: what is no ordinary file is not opened, and sizes have limits.

A checkpoint, a configuration or the state of a run may be incomplete, damaged or made to do harm. A pipe would be
waited for without end, a device or a link would lead out of the directory, and a few megabytes of brackets become
gigabytes of objects. What is refused here is a `UserError`.
"""

import json
import os
import stat
import zipfile
from pathlib import Path
from typing import Any

from colbertz.errors import UserError

# Bytes of a text file with settings.
MOST_BYTES = 8 * 2**20
# Opening brackets in a JSON file. Each takes 60 bytes or more. A tokenizer of 256,000 tokens has 600,000.
_MOST_BRACKETS = 3_000_000
_KINDS = {
    stat.S_ISDIR: "a directory",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def check_file(path: Path, anywhere: bool = False) -> None:
    """Check, without opening it, that a path leads to an ordinary file in its own directory.

    Links are followed within the directory, and from a snapshot of the Hugging Face cache to the `blobs` beside it.

    Args:
        path: the file.
        anywhere: whether a link may lead out of the directory: for a file that a user named, not one found beside it.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it is something else, such as a pipe, or a link leads out of the directory.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS.items() if is_kind(mode)), "something else")
        raise UserError(f"{path} is {kind} and not a file; remove it, or put the file there")
    if not anywhere:
        check_inside(path.parent, path)


def check_inside(folder: Path, path: Path) -> None:
    """Check that a path does not lead out of a directory, by links or by `..`; see `check_file`.

    Raises:
        UserError: if it does.
    """
    real, home = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    allowed = [home]
    for snapshot in (home, *home.parents):
        if snapshot.parent.name == "snapshots":
            allowed.append(snapshot.parents[1] / "blobs")
    if not any(real.is_relative_to(place) for place in allowed):
        raise UserError(f"{path} leads to {real}, outside {folder}; copy what it leads to into the directory")


def read_text(path: Path, most_bytes: int = MOST_BYTES, anywhere: bool = False) -> str:
    """The content of a text file in UTF-8.

    Args:
        path: the file.
        most_bytes: a larger file is refused before it is read.
        anywhere: as for `check_file`.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it is no ordinary file (see `check_file`), is too large, or is not UTF-8.
    """
    check_file(path, anywhere)
    size = path.stat().st_size
    if size > most_bytes:
        raise UserError(f"{path} has {size:,} bytes, at most {most_bytes:,} are read; it is not what its name says")
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not in UTF-8 ({error}); copy or download it again") from None


def read_json(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """The content of a JSON file.

    Raises:
        FileNotFoundError, UserError: as `read_text`, and if it is not JSON or holds too much.
    """
    text = read_text(path, most_bytes)
    if text.count("[") + text.count("{") > _MOST_BRACKETS:
        raise UserError(f"{path} has more than {_MOST_BRACKETS:,} lists and objects; it is not what its name says")
    try:
        return json.loads(text)
    except RecursionError:
        raise UserError(
            f"{path} has lists or objects within each other too deeply; it is not what its name says"
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); copy or download it again") from None


def check_tensor_archive(path: Path) -> None:
    """Check, before PyTorch reads a file of its own format, that its parts are stored and not compressed.

    Raises:
        UserError: if it is no ordinary file, or its parts would take more memory than the file has bytes.
        zipfile.BadZipFile: if the list of its parts is damaged.
    """
    check_file(path, anywhere=True)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
                raise UserError(f"{path} is compressed, as PyTorch never writes it; copy or download it again")

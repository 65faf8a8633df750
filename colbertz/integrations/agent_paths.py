"""Which paths an agent may name: those in its folders, wherever links and `..` lead."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from colbertz.errors import UserError


@dataclass(frozen=True)
class Roots:
    """The folders that an agent may search and read.

    Attributes:
        folders: their real paths; none of them is inside another.
    """

    folders: tuple[str, ...]

    @classmethod
    def of(cls, folders: Iterable[str]) -> "Roots":
        """The roots at these paths; what is no folder is left out, and what is inside another one too.

        Raises:
            UserError: if no folder is left.
        """
        real = sorted({os.path.realpath(folder) for folder in folders if Path(folder).is_dir()})
        outermost = tuple(folder for folder in real if not any(_is_below(folder, other) for other in real))
        if not outermost:
            raise UserError("there is no folder to search; name one: colbertz mcp FOLDER")
        return cls(outermost)

    def named(self, path: str) -> list[tuple[str, str]]:
        """The root and the path relative to it ("" for the root itself) of what an agent calls `path`.

        An empty path names all roots. A relative path is looked for in each root, and the first that has it counts.

        Raises:
            UserError: if there is no such path, or it is in none of the roots.
        """
        if path in ("", "."):
            return [(folder, "") for folder in self.folders]
        if "\0" in path:
            raise UserError(f"a path cannot have a zero byte: {path!r}")
        for candidate in (Path(folder) / path for folder in self.folders):  # an absolute path stays what it is
            real = os.path.realpath(candidate)
            for folder in self.folders:
                if (real == folder or _is_below(real, folder)) and os.access(real, os.F_OK):
                    return [(folder, "" if real == folder else os.path.relpath(real, folder))]
        raise UserError(f"there is no {path} in the folders that may be searched: {', '.join(self.folders)}")

    def shown(self, root: str, path: str) -> str:
        """A path as the answer gives it: relative to the root if there is one root, else absolute."""
        return path if len(self.folders) == 1 else str(Path(root) / path)


def folders_of_uris(uris: Iterable[str]) -> list[str]:
    """The local folders that a client of the Model Context Protocol names as its roots."""
    parts = [urlsplit(uri) for uri in uris]
    return [unquote(part.path) for part in parts if part.scheme == "file" and part.netloc in ("", "localhost")]


def default_folder(cwd: str) -> list[str]:
    """The folder that a program was started in; none if that is the whole disk or the user's home.

    Programs with windows start their servers there, and nobody wants an index of everything.
    """
    too_much = {os.path.realpath(path) for path in ("/", Path.home())}
    return [] if os.path.realpath(cwd) in too_much else [cwd]


def _is_below(path: str, folder: str) -> bool:
    return path != folder and path.startswith(folder.rstrip("/") + "/")

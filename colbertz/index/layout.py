"""What an index looks like on disk: the names of its files and the manifest that says which of them count.

    manifest.json                        the only file that ever changes, by one atomic rename
    segment-000001/embeddings.npy        (num_tokens, embedding_dim) float16, all documents, one after the other
    segment-000001/doclens.npy           (num_documents,) int32, tokens of each document
    segment-000001/documents.sqlite      id, text and metadata of each document

A segment that the manifest does not name is what an interrupted build left behind; it is never read.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

FORMAT = "colbertz-index"
VERSION = 1
DTYPE = "float16"


@dataclass(frozen=True)
class Layout:
    """The files of one segment of the index directory `root`."""

    root: Path
    segment: str

    @property
    def folder(self) -> Path:
        return self.root / self.segment

    @property
    def embeddings(self) -> Path:
        return self.folder / "embeddings.npy"

    @property
    def doclens(self) -> Path:
        return self.folder / "doclens.npy"

    @property
    def documents(self) -> Path:
        return self.folder / "documents.sqlite"

    @property
    def files(self) -> tuple[Path, ...]:
        return self.embeddings, self.doclens, self.documents


def manifest_path(root: Path) -> Path:
    return root / "manifest.json"


def segment_name(generation: int) -> str:
    return f"segment-{generation:06d}"


@dataclass(frozen=True)
class Manifest:
    """What is in the index and which segment holds it.

    Attributes:
        segment: name of the folder with the files.
        sizes: bytes of each file, checked whenever the index is opened.
        sha256: checksum of each file, checked by `Index.verify`.
        model: where the model that made the embeddings lies: `./` and `../` are relative to the index, else an
            absolute path or a hub id; None if the index was built from bare embeddings.
        fingerprint: the model's embedding of a fixed text, by which `Searcher` knows that it has the right one.
    """

    segment: str
    embedding_dim: int
    num_documents: int
    num_tokens: int
    sizes: dict[str, int]
    sha256: dict[str, str]
    model: str | None = None
    fingerprint: Sequence[float] | None = field(default=None, repr=False)
    dtype: str = DTYPE

    @property
    def generation(self) -> int:
        return int(self.segment.removeprefix("segment-"))

    def save(self, root: Path) -> None:
        """Make this manifest the one that counts. Before the rename the old state is on disk, after it the new one."""
        temporary = root / self.segment / "manifest.json"
        with temporary.open("w", encoding="utf-8") as file:
            json.dump({"format": FORMAT, "version": VERSION, **asdict(self)}, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(manifest_path(root))
        sync_folder(root)

    @classmethod
    def load(cls, root: Path) -> "Manifest":
        """Read and check `root`/manifest.json.

        Raises:
            FileNotFoundError: if there is no such directory.
            ValueError: if it is not a colbertz index, or one of a newer format, or its manifest is damaged.
        """
        path = manifest_path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"there is no index at {root}: no such directory")
        if not path.is_file():
            if any(root.glob("segment-*")):
                raise ValueError(f"{root} holds no index: its build was interrupted; build it again")
            raise ValueError(
                f"{root} is not a colbertz index: it has no manifest.json; build one with `colbertz index`"
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}; build the index again") from error
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise ValueError(f"{path} is not the manifest of a colbertz index: its `format` is not {FORMAT!r}")
        version = content.pop("version", None)
        if not isinstance(version, int) or version < 1:
            raise ValueError(f"{path} is damaged: `version` is {version!r}; build the index again")
        if version > VERSION:
            raise ValueError(
                f"{root} has index format {version} and this colbertz reads up to {VERSION}: upgrade colbertz"
            )
        return cls._checked(content, path)

    @classmethod
    def _checked(cls, content: dict[str, Any], path: Path) -> "Manifest":
        names = {f.name for f in fields(cls)}
        if set(content) != names:
            wrong = ", ".join(sorted(set(content) ^ names))
            raise ValueError(f"{path} is damaged: missing or unknown fields {wrong}; build the index again")
        manifest = cls(**content)
        counts = (manifest.embedding_dim, manifest.num_documents, manifest.num_tokens)
        if not all(isinstance(count, int) and count > 0 for count in counts):
            raise ValueError(f"{path} is damaged: counts {counts} must be positive integers; build the index again")
        if not re.fullmatch(r"segment-\d{6,}", str(manifest.segment)) or manifest.dtype != DTYPE:
            raise ValueError(f"{path} is damaged: segment {manifest.segment!r}, dtype {manifest.dtype!r}")
        return manifest


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, which syncing the files themselves does not."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""The files of an index on disk, and the manifest, which names those that belong to the present state.

    manifest.json                     the only file that is ever replaced, by one atomic rename
    codec-000001/                     centroids and buckets, see codec.py
    segment-000001/codes.npy          (num_tokens,) uint16 or uint32, each token's centroid
    segment-000001/residuals.npy      (num_tokens, embedding_dim · nbits / 8) uint8, packed as Stanford's ColBERT does
    segment-000001/inverse_norms.npy  (num_tokens,) float32, 1 / norm of centroid + residual
    segment-000001/doclens.npy        (num_documents,) int32, tokens of each document
    segment-000001/ivf.npy            (postings,) int32, the local_idx of the documents in cell 0, in cell 1, …
    segment-000001/ivf_lengths.npy    (cells,) int32, documents of each cell
    segment-000001/documents.sqlite   id, text, metadata, and their full-text index
    segment-000001/deleted-000002.npy int32, the local_idx of the deleted documents, ascending
    build/                            an unfinished build, which the same call continues

A file of such a name that the manifest does not name was left by an interrupted write: it is never read, and the next
writer removes it. docs/format.md is the full specification.
"""

import json
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from colbertz.errors import UserError
from colbertz.files import sha256, write_atomically

FORMAT = "colbertz-index"
VERSION = 2
MANIFEST = "manifest.json"
BUILD = "build"
PROGRESS = f"{BUILD}/progress.json"
# Bytes of a page.
_PAGE = 4096
# Pages of a file that the quick checksum covers: the first, the last, and pages at equal distances between them.
_PAGES = 16


@dataclass(frozen=True)
class SegmentFiles:
    """The files of one segment."""

    folder: Path

    @property
    def codes(self) -> Path:
        return self.folder / "codes.npy"

    @property
    def residuals(self) -> Path:
        return self.folder / "residuals.npy"

    @property
    def inverse_norms(self) -> Path:
        return self.folder / "inverse_norms.npy"

    @property
    def doclens(self) -> Path:
        return self.folder / "doclens.npy"

    @property
    def ivf(self) -> Path:
        return self.folder / "ivf.npy"

    @property
    def ivf_lengths(self) -> Path:
        return self.folder / "ivf_lengths.npy"

    @property
    def documents(self) -> Path:
        return self.folder / "documents.sqlite"

    @property
    def all(self) -> tuple[Path, ...]:
        return (
            self.codes,
            self.residuals,
            self.inverse_norms,
            self.doclens,
            self.ivf,
            self.ivf_lengths,
            self.documents,
        )


@dataclass(frozen=True)
class SegmentInfo:
    """The entry of the manifest for a segment.

    Attributes:
        name: its folder.
        num_documents, num_tokens: including deleted documents.
        num_far: tokens whose residual is longer than the codec's `cluster_threshold`.
        deleted: the file that lists the deleted documents, relative to the index; None if none is deleted.
        num_deleted: the number of deleted documents.
    """

    name: str
    num_documents: int
    num_tokens: int
    num_far: int
    deleted: str | None = None
    num_deleted: int = 0


@dataclass(frozen=True)
class Checksum:
    """The size of a file, a checksum of some of its pages, compared at every opening, and its SHA-256, for `check`."""

    size: int
    quick: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What is in an index, and in which files.

    Attributes:
        generation: the number of this state of the index; the first is 1.
        codec: name of the folder with the codec.
        segments: oldest first. The doc_idx counts documents in this order.
        files: checksums of all files of codec and segments, by their path relative to the index.
        next_number: a document without an id gets the first number from here on that is no document's id. At least as
            many as documents were ever added, and larger than each number that was given as an id in this way.
        trained_on: tokens in the index when the codec was made.
        model: where the model that made the embeddings lies: `./` and `../` are relative to the index, else an
            absolute path or a hub id; None if the index was built from bare embeddings.
        fingerprint: the model's embedding of a fixed text, by which `Searcher` recognises the model.
    """

    generation: int
    codec: str
    segments: tuple[SegmentInfo, ...]
    files: dict[str, Checksum] = field(repr=False)
    embedding_dim: int
    nbits: int
    next_number: int
    trained_on: int
    model: str | None = None
    fingerprint: Sequence[float] | None = field(default=None, repr=False)

    @property
    def num_documents(self) -> int:
        """Without the deleted ones."""
        return sum(segment.num_documents - segment.num_deleted for segment in self.segments)

    @property
    def num_tokens(self) -> int:
        """With those of the deleted documents."""
        return sum(segment.num_tokens for segment in self.segments)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(checksum.size for checksum in self.files.values())

    def save(self, root: Path) -> None:
        """Make this manifest the one that counts. Before the rename the old state is on disk, after it the new one."""
        content = json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=1)
        write_atomically(root / MANIFEST, content + "\n")

    @classmethod
    def load(cls, root: Path) -> "Manifest":
        """Read and check `root`/manifest.json.

        Raises:
            FileNotFoundError: if there is no such directory.
            ValueError: if it is not a colbertz index, or one of another format version, or its manifest is damaged.
        """
        path = root / MANIFEST
        if not root.is_dir():
            raise FileNotFoundError(f"there is no index at {root}: no such directory")
        if not path.is_file():
            if (root / BUILD).is_dir():
                raise UserError(f"{root} holds no index yet: its build was interrupted; start it again to finish it")
            raise UserError(f"{root} is not a colbertz index: it has no manifest.json; build one with `colbertz index`")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is damaged: {error}; build the index again") from error
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise UserError(f"{path} is not the manifest of a colbertz index: its `format` is not {FORMAT!r}")
        version = content.pop("version", None)
        if not isinstance(version, int) or version < 1:
            raise UserError(f"{path} is damaged: `version` is {version!r}; build the index again")
        if version != VERSION:
            advice = "upgrade colbertz" if version > VERSION else "build the index again"
            raise UserError(f"{root} has index format {version} and this colbertz reads {VERSION}: {advice}")
        return cls._checked(content, path)

    @classmethod
    def _checked(cls, content: dict[str, Any], path: Path) -> "Manifest":
        expected = {f.name for f in fields(cls)}
        if set(content) != expected:
            wrong = ", ".join(sorted(set(content) ^ expected))
            raise UserError(f"{path} is damaged: missing or unknown fields {wrong}; build the index again")
        try:
            content["segments"] = tuple(SegmentInfo(**segment) for segment in content["segments"])
            content["files"] = {name: Checksum(**checksum) for name, checksum in content["files"].items()}
        except (TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged: {error}; build the index again") from error
        manifest = cls(**content)
        counts = [manifest.generation, manifest.embedding_dim, manifest.nbits]
        counts += [count for segment in manifest.segments for count in (segment.num_documents, segment.num_tokens)]
        if not all(isinstance(count, int) and count > 0 for count in counts):
            raise UserError(f"{path} is damaged: counts {counts} must be positive integers; build the index again")
        folders = {"codec": [manifest.codec], "segment": [segment.name for segment in manifest.segments]}
        for kind, names in folders.items():
            for name in names:
                if not re.fullmatch(rf"{kind}-\d{{6,}}", str(name)):
                    raise UserError(f"{path} is damaged: {kind} {name!r}; build the index again")
        return manifest


def checksum(path: Path) -> Checksum:
    """Read the whole file."""
    size, quick = quick_checksum(path)
    return Checksum(size, quick, sha256(path))


def check_files(root: Path, manifest: Manifest) -> None:
    """Read every file that a manifest names and compare it with its checksum.

    Raises:
        UserError: naming the first file that differs or is missing.
    """
    for name, expected in manifest.files.items():
        try:
            actual = sha256(root / name)
        except FileNotFoundError as error:
            if Manifest.load(root).generation != manifest.generation:
                raise UserError(f"{root} has changed since it was opened; refresh it first") from error
            raise UserError(f"{root / name} is missing; build the index again") from error
        if actual != expected.sha256:
            raise UserError(f"{root / name} is damaged: its checksum is not the manifest's; build it again")


def quick_checksum(path: Path) -> tuple[int, int]:
    """The size of a file and a CRC-32 of 64 KB of it: enough to see that it is another file, or has a hole."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        last = max(0, size - _PAGE)
        crc = 0
        for start in sorted({last * i // (_PAGES - 1) for i in range(_PAGES)}):
            file.seek(start)
            crc = zlib.crc32(file.read(_PAGE), crc)
    return size, crc

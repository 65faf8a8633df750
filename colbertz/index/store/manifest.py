"""The manifest, which names the files that belong to the present state of an index; layout.py says which there are."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from colbertz.errors import UserError
from colbertz.files import sha256, write_atomically
from colbertz.index.store.checksums import Checksum
from colbertz.index.store.coding import Coding
from colbertz.index.store.layout import BUILD, MANIFEST, SegmentFiles
from colbertz.index.store.manifest_faults import wrong_name, wrong_value

FORMAT = "colbertz-index"
VERSION = 5
# Version 4 has no `coding`, and is still written for scalar residuals, so that older programs read it.
_BEFORE_PRODUCTS = 4
# Version 3 has no `applied`, and no `documents` of a segment. It is still written where both are empty, so that older
# programs read it. They must not change others: they would forget `applied`, and a server would add documents twice.
_BEFORE_SERVERS = 3
# Version 2 has no `encoding` and no `sha256` either.
OLDEST_VERSION = 2
# What stands in place of the manifest's own checksum while that is computed.
_NO_DIGEST = "0" * 64
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class SegmentInfo:
    """The entry of the manifest for a segment.

    Attributes:
        name: its folder.
        num_documents, num_tokens: including deleted documents.
        num_far: tokens whose residual is longer than the codec's `cluster_threshold`.
        deleted: the file that lists the deleted documents, relative to the index; None if none is deleted.
        num_deleted: the number of deleted documents.
        has_checksums: whether there are checksums of each document and each list; version 2 has none.
        norm_deviation: how much the norms of the embeddings of one document differ from 1, at most: the root of the
            mean square of the tokens' log norms. 0 if all embeddings are of unit length; version 2 does not know it.
        documents: the file with ids, texts and metadata, relative to the index, if it is another one than that of the
            folder, because metadata was changed; else None.
    """

    name: str
    num_documents: int
    num_tokens: int
    num_far: int
    deleted: str | None = None
    num_deleted: int = 0
    has_checksums: bool = False
    norm_deviation: float = 0.0
    documents: str | None = None

    @property
    def documents_name(self) -> str:
        """The file with ids, texts and metadata, relative to the index."""
        return self.documents or f"{self.name}/{SegmentFiles(Path()).documents}"


@dataclass(frozen=True)
class Encoding:
    """With what the embeddings of an index were made.

    Attributes:
        backend: the program that ran the model, such as "torch".
        dtype: the type that it computed in, such as "bfloat16".
    """

    backend: str
    dtype: str


@dataclass(frozen=True)
class Applied:
    """Which operations of a server's log a state of an index contains.

    Attributes:
        log: the random name of the log.
        record: the number of an operation in it. This state contains it and all before it, except those that failed.
    """

    log: str
    record: int


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
        encoding: with what the embeddings were made; None if that is not known.
        applied: the last operation of a server's log that this state contains; None if no server wrote the index.
        coding: how residuals are coded, if not as scalars of `nbits`; None for those.
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
    encoding: Encoding | None = None
    applied: Applied | None = None
    coding: Coding | None = None

    @property
    def residual_coding(self) -> Coding:
        """How residuals are coded."""
        return self.coding or Coding(nbits=self.nbits)

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

    @property
    def file_names(self) -> Iterator[str]:
        """The files of which `files` holds the checksums."""
        yield from (f"{self.codec}/{name}" for name in self.residual_coding.codec_files)
        for segment in self.segments:
            files = SegmentFiles(Path(segment.name))
            paths = files.arrays + (files.checksums if segment.has_checksums else ())
            yield from (f"{segment.name}/{path.name}" for path in paths)
            yield segment.documents_name
            if segment.deleted is not None:
                yield segment.deleted

    def save(self, root: Path) -> None:
        """Make this manifest the one that counts. Before the rename the old state is on disk, after it the new one."""
        content = {"format": FORMAT, "version": VERSION, "sha256": _NO_DIGEST, **asdict(self)}
        if self.coding is None:
            content["version"] = _BEFORE_PRODUCTS
            del content["coding"]
        if self.coding is None and self.applied is None and all(segment.documents is None for segment in self.segments):
            content["version"] = _BEFORE_SERVERS
            for fields_of, name in ((content, "applied"), *((segment, "documents") for segment in content["segments"])):
                del fields_of[name]
        write_atomically(root / MANIFEST, sealed(json.dumps(content, indent=1) + "\n", _NO_DIGEST))

    @classmethod
    def load(cls, root: Path) -> "Manifest":
        """Read and check `root`/manifest.json.

        Raises:
            FileNotFoundError: if there is no such directory.
            UserError: if it is not a colbertz index, or one of another format version, or its manifest is damaged.
        """
        path = root / MANIFEST
        if not root.is_dir():
            raise FileNotFoundError(f"there is no index at {root}: no such directory")
        if not path.is_file():
            if (root / BUILD).is_dir():
                raise UserError(f"{root} holds no index yet: its build was interrupted; start it again to finish it")
            raise UserError(f"{root} is not a colbertz index: it has no manifest.json; build one with `colbertz index`")
        try:
            text = path.read_bytes().decode("utf-8")
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _damaged(path, error) from error
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise UserError(f"{path} is not the manifest of a colbertz index: its `format` is not {FORMAT!r}")
        version = content.pop("version", None)
        if type(version) is not int or version < 1:
            raise _damaged(path, f"`version` is {version!r:.80}")
        if not OLDEST_VERSION <= version <= VERSION:
            advice = "upgrade colbertz" if version > VERSION else "build the index again"
            raise UserError(
                f"{root} has index format {version} and this colbertz reads {OLDEST_VERSION} to {VERSION}: {advice}"
            )
        if version < VERSION:
            content.setdefault("coding", None)
        if version < _BEFORE_PRODUCTS:
            content.setdefault("applied", None)
        if version == OLDEST_VERSION:
            content.setdefault("encoding", None)
        else:
            digest = content.pop("sha256", None)
            if not isinstance(digest, str) or not _DIGEST.fullmatch(digest) or sealed(text, digest) != text:
                raise _damaged(path, "it does not have the checksum that it holds")
        return cls._checked(content, path)

    @classmethod
    def _checked(cls, content: dict[str, Any], path: Path) -> "Manifest":
        expected = {f.name for f in fields(cls)}
        if set(content) != expected:
            wrong = ", ".join(sorted(set(content) ^ expected))
            raise _damaged(path, f"missing or unknown fields {wrong:.200}")
        try:
            content["segments"] = tuple(SegmentInfo(**segment) for segment in content["segments"])
            content["files"] = {name: Checksum(**checksum) for name, checksum in content["files"].items()}
            content["encoding"] = content["encoding"] and Encoding(**content["encoding"])
            content["applied"] = content["applied"] and Applied(**content["applied"])
            content["coding"] = content["coding"] and Coding(**content["coding"])
        except (TypeError, AttributeError) as error:
            raise _damaged(path, error) from error
        manifest = cls(**content)
        if fault := wrong_value(manifest) or wrong_name(manifest):
            raise _damaged(path, fault)
        # Version 2 may name more files, which some other program left in our folders.
        files = {name: manifest.files[name] for name in manifest.file_names}
        return replace(manifest, files=files)


def sealed(text: str, digest: str) -> str:
    """The text of a manifest with its own checksum in place of `digest`, which is what it holds now."""
    blank = text.replace(digest, _NO_DIGEST, 1)
    return blank.replace(_NO_DIGEST, hashlib.sha256(blank.encode()).hexdigest(), 1)


def check_values(manifest: Manifest, path: Path) -> None:
    """Check the counts, the model and the fingerprint of a manifest that did not come from a manifest.json.

    Raises:
        UserError: naming `path` and the first value that no index can have.
    """
    if fault := wrong_value(manifest):
        raise UserError(f"{path} is damaged: {fault}; copy the index again, or have its program rebuild it")


def _damaged(path: Path, what: object) -> UserError:
    return UserError(f"{path} is damaged: {what}; build the index again")


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

"""Building an index from a stream of embeddings that may be larger than memory, in steps that survive being killed.

    1. chunks     the stream is written to build/ as float16, a chunk at a time, while ids and texts go to SQLite
    2. codec      centroids and buckets from a random sample of all tokens
    3. codes      chunk after chunk is coded and appended to the segment's arrays
    4. lists      inverted lists by counting sort
    5. manifest   one rename makes it the index

Called again after a kill, with the same arguments, a build takes the same steps and skips what is complete: chunks
whose embeddings are the same, the codec, coded chunks. Memory: see `colbertz.index.Index.build`.
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from colbertz.document import Document
from colbertz.errors import UserError
from colbertz.files import replaced_file, sha256, sync_files, write_atomically
from colbertz.index.store import codec as codecs
from colbertz.index.store.codec import Codec, packed_bytes
from colbertz.index.store.documents import DocumentWriter, write_documents
from colbertz.index.store.manifest import BUILD, MANIFEST, PROGRESS, Manifest, SegmentFiles
from colbertz.index.write.commit import (
    commit,
    next_name,
    only_writer,
    refuse_foreign,
    remove_build,
    remove_leftovers,
    segment_info,
    write_codes,
    write_lists,
)
from colbertz.index.write.stream import Described, Embeddings, checked, chunked
from colbertz.ragged import Ragged

# Tokens a chunk: 64 MB of float16 at 128 dimensions. A longer document is a chunk of its own.
CHUNK_TOKENS = 1 << 18


@dataclass(frozen=True)
class Settings:
    """What an interrupted build must have in common with the call that continues it.

    Attributes:
        nbits, seed, model, fingerprint, recipe: see `Index.build`.
        compacted: the generation of the index whose documents are coded anew; None for documents from outside.
    """

    nbits: int
    seed: int
    model: str | None
    fingerprint: Sequence[float] | None
    recipe: str | None = None
    compacted: int | None = None


@dataclass(frozen=True)
class Chunk:
    """Consecutive documents on their way into the index, on disk: build/chunks/000000.npy and .json.

    Attributes:
        sha256: of the float16 embeddings and the lengths.
        described: SHA-256 of the documents' ids, texts and metadata.
    """

    doclens: list[int]
    sha256: str
    described: str


def build(
    root: Path,
    embeddings: Embeddings,
    settings: Settings,
    *,
    ids: Iterable[str] | None,
    texts: Iterable[str | None] | None,
    metadata: Iterable[dict[str, Any]] | None,
    overwrite: bool,
    device: str | torch.device | None,
    show_progress: bool | None,
) -> None:
    """Write the index `root`; the arguments and errors are those of `Index.build`."""
    refuse_foreign(root, overwrite)
    described = Described(ids, texts, metadata)
    # Kernels are launched on the current device, wherever their arguments are.
    on = torch.cuda.device(device) if device is not None else contextlib.nullcontext()
    with only_writer(root), on:
        refuse_foreign(root, overwrite)  # once more: another process may have built one meanwhile
        write(root, _next_generation(root), embeddings, settings, described, device=device, show_progress=show_progress)


def _next_generation(root: Path) -> int:
    """The number of the state after the one at `root`."""
    try:
        old = Manifest.load(root) if (root / MANIFEST).exists() else None
    except ValueError:  # damaged, or of another version: it stays until the new one is there, so its names are taken
        return 1 + max(
            [int(name) for path in root.iterdir() for name in re.findall(r"-(\d{6,})$", path.name)], default=0
        )
    remove_leftovers(root, old)
    return old.generation + 1 if old else 1


def write(
    root: Path,
    generation: int,
    embeddings: Embeddings,
    settings: Settings,
    described: Described,
    *,
    device: str | torch.device | None = None,
    show_progress: bool | None,
    next_number: int = 0,
) -> None:
    """Build the state `generation` of `root`, by the process that holds the lock; see `Manifest.next_number`."""
    work = _Work(root, settings, torch.device(device or "cpu"), None if show_progress is None else not show_progress)
    segment = work.folder / "segment"
    try:
        chunks = work.store_chunks(embeddings, described, SegmentFiles(segment))
        codec = work.train(chunks)
        num_far = work.encode(chunks, codec, SegmentFiles(segment))
    except (ValueError, TypeError):
        # What is wrong may be the end of a long stream; mended, the same call goes on behind what is stored.
        if work.num_stored < 2:
            remove_build(root)
        raise
    doclens = np.array([length for chunk in chunks for length in chunk.doclens], dtype=np.int64)
    write_lists(SegmentFiles(segment), doclens, len(codec.centroids))
    folders = work.hand_over(generation)
    manifest = Manifest(
        generation=generation,
        codec=folders[0].name,
        segments=(segment_info(folders[1].name, doclens, num_far),),
        files={},
        embedding_dim=codec.embedding_dim,
        nbits=codec.nbits,
        next_number=max(next_number, len(doclens)),
        trained_on=int(doclens.sum()),
        model=settings.model,
        fingerprint=settings.fingerprint,
    )
    commit(root, manifest, folders)


class _Work:
    """The folder build/ and what is complete in it."""

    def __init__(self, root: Path, settings: Settings, device: torch.device, quiet: bool | None) -> None:
        self.root = root
        self.device = device
        self.folder = root / BUILD
        self.settings = settings
        self.bar: dict[str, Any] = {"unit_scale": True, "disable": quiet, "leave": False}
        wanted = json.loads(json.dumps(asdict(settings)))
        file = root / PROGRESS
        self.progress: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if self.progress.get("settings") != wanted:
            if self.folder.exists():
                remove_build(root)
            self.folder.mkdir()
            self.progress = {"settings": wanted}
            self._start_over()
        (self.folder / "chunks").mkdir(exist_ok=True)

    def _save(self, **changes: Any) -> None:
        self.progress |= changes
        write_atomically(self.root / PROGRESS, json.dumps(self.progress))

    def _start_over(self, generation: int | None = None) -> None:
        """Nothing after the chunks counts any more, or if it does, as the state `generation` of the index."""
        self._save(codec=False, encoded=0, num_far=0, generation=generation)

    def _chunk_files(self, number: int) -> tuple[Path, Path]:
        folder = self.folder / "chunks"
        return folder / f"{number:06d}.npy", folder / f"{number:06d}.json"

    @property
    def num_stored(self) -> int:
        """Complete chunks."""
        return len(list((self.folder / "chunks").glob("*.json")))

    def _stored(self, number: int) -> Chunk | None:
        """A chunk that an interrupted build has left complete."""
        rows, about = self._chunk_files(number)
        if not about.exists():
            return None
        chunk = Chunk(**json.loads(about.read_text()))
        return chunk if sha256(rows) == chunk.sha256 else None

    def store_chunks(self, embeddings: Embeddings, described: Described, files: SegmentFiles) -> list[Chunk]:
        """Step 1. Documents and embeddings are walked in step, so each may be a generator."""
        files.folder.mkdir(exist_ok=True)
        files.documents.unlink(missing_ok=True)
        chunks: list[Chunk] = []
        with (
            write_documents(files.documents) as writer,
            tqdm(desc="storing", unit=" tokens", **self.bar) as bar,
        ):
            if callable(embeddings):
                chunks = self._keep(described, writer)
                bar.update(sum(sum(chunk.doclens) for chunk in chunks))
                embeddings = embeddings(writer.count)
            for part in chunked(checked(embeddings, first=writer.count), CHUNK_TOKENS):
                packed_bytes(part.values.shape[1], self.settings.nbits)
                documents = described.take(len(part))
                writer.add(documents)
                chunks.append(self._store(len(chunks), part, _sha256(documents)))
                bar.update(len(part.values))
            described.check_exhausted()
        if not chunks:
            raise UserError("an index needs at least one document, got no embeddings")
        if self._chunk_files(len(chunks))[1].exists():
            self._forget(len(chunks))
        return chunks

    def _keep(self, described: Described, writer: DocumentWriter) -> list[Chunk]:
        """The stored chunks of documents that have the same ids, texts and metadata now."""
        kept: list[Chunk] = []
        while (chunk := self._stored(len(kept))) is not None:
            documents = described.take(len(chunk.doclens), or_fewer=True)
            if _sha256(documents) != chunk.described:
                described.put_back()
                break
            writer.add(documents)
            kept.append(chunk)
        return kept

    def _store(self, number: int, part: Ragged, described: str) -> Chunk:
        path, about = self._chunk_files(number)
        with replaced_file(path) as temporary:
            with temporary.open("wb") as file:
                np.save(file, part.values.numpy(), allow_pickle=False)
            chunk = Chunk(part.lengths.tolist(), sha256(temporary), described)
            if not about.exists() or Chunk(**json.loads(about.read_text())) != chunk:
                self._forget(number)
        write_atomically(about, json.dumps(asdict(chunk)))
        return chunk

    def _forget(self, first: int) -> None:
        """The input has changed from chunk `first` on: so has the sample, and with it everything later."""
        self._start_over()
        for path in sorted((self.folder / "chunks").glob("*.json"), reverse=True):
            if int(path.stem) >= first:
                path.unlink()

    def train(self, chunks: Sequence[Chunk]) -> Codec:
        """Step 2."""
        folder = self.folder / "codec"
        if self.progress["codec"]:
            return Codec.load(folder)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        num_tokens = sum(sum(chunk.doclens) for chunk in chunks)
        sample = self._sample(chunks, num_tokens).to(self.device)
        with tqdm(desc="training", bar_format="{desc} {elapsed}", **self.bar) as bar:
            codec = codecs.train(sample, num_tokens, self.settings.nbits, self.settings.seed, bar.set_description)
        codec.save(folder)
        sync_files(folder.iterdir())
        self._save(codec=True)
        return Codec.load(folder)

    def _sample(self, chunks: Sequence[Chunk], num_tokens: int) -> torch.Tensor:
        """Random tokens of the whole collection, in random order."""
        size = codecs.sample_size(num_tokens)
        # Unlike a permutation of all, this needs memory for the sample only, if that is small enough in comparison.
        chosen = np.random.default_rng(self.settings.seed).choice(num_tokens, size, replace=False)
        order = np.argsort(chosen)
        wanted = chosen[order]
        rows = None
        begin = 0
        for number, chunk in enumerate(chunks):
            end = begin + sum(chunk.doclens)
            first, last = np.searchsorted(wanted, (begin, end))
            part = np.load(self._chunk_files(number)[0], mmap_mode="r", allow_pickle=False)
            if rows is None:
                rows = torch.empty(size, part.shape[1])
            rows[torch.from_numpy(order[first:last])] = torch.from_numpy(part[wanted[first:last] - begin]).float()
            begin = end
        assert rows is not None
        return rows

    def encode(self, chunks: Sequence[Chunk], codec: Codec, files: SegmentFiles) -> int:
        """Step 3. Returns the number of tokens that are far from their centroids."""
        doclens = [sum(chunk.doclens) for chunk in chunks]
        done = self.progress["encoded"]
        first = sum(doclens[:done])
        with (
            write_codes(files, codec, first) as writer,
            tqdm(desc="coding", total=sum(doclens), initial=first, unit=" tokens", **self.bar) as bar,
        ):
            for number in range(done, len(chunks)):
                rows = np.load(self._chunk_files(number)[0], allow_pickle=False)
                encoded, distances = codec.encode(torch.from_numpy(rows).to(self.device))
                writer.write(encoded)
                writer.sync()
                far = int((distances > codec.cluster_threshold).sum())
                self._save(encoded=number + 1, num_far=self.progress["num_far"] + far)
                bar.update(len(rows))
        num_far: int = self.progress["num_far"]
        return num_far

    def hand_over(self, generation: int) -> list[Path]:
        """Before step 5, move codec and segment into the index. A build that is killed now repeats steps 2 to 4."""
        self._start_over(generation)
        folders = [self.root / next_name(kind, generation) for kind in ("codec", "segment")]
        for source, target in zip((self.folder / "codec", self.folder / "segment"), folders):
            source.rename(target)
        return folders


def _sha256(documents: Iterable[Document]) -> str:
    digest = hashlib.sha256()
    for document in documents:
        # Whatever cannot be written is refused by the writer of documents, with a better message.
        digest.update(repr((document.id, document.text, document.metadata)).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()

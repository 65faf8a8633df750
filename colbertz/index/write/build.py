"""Building an index from a stream of documents that may be larger than memory, in steps that survive being killed.

    1. store      embeddings are written to build/chunks as float16, and documents to SQLite
    2. train      centroids and buckets from a random sample of all tokens
    3. code       the tokens of chunk after chunk are coded; then inverted lists are made by a counting sort
    4. commit     one rename makes it the index

Called again after a kill, with the same arguments, a build takes the same steps and leaves out what is complete: chunks
whose documents or embeddings are the same, the codec, coded chunks. Memory: see `BuildKeywords`.
"""

import contextlib
import logging
import re
import shutil
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import TypedDict

import numpy as np
import torch

from colbertz.errors import UserError, check_integer, check_show_progress, check_type
from colbertz.files import sha256, sync_files
from colbertz.index.store import codec as codecs
from colbertz.index.store.arrays import is_whole
from colbertz.index.store.codec import Codec
from colbertz.index.store.coding import Coding
from colbertz.index.store.devices import checked_devices
from colbertz.index.store.document_writer import DocumentWriter, write_documents
from colbertz.index.store.layout import BUILD, MANIFEST, SegmentFiles
from colbertz.index.store.manifest import Applied, Encoding, Manifest, SegmentInfo
from colbertz.index.store.segment import offsets_of
from colbertz.index.write.chunks import Chunk, ChunkFolder, described
from colbertz.index.write.commit import (
    commit,
    next_name,
    only_writer,
    refuse_foreign,
    remove_leftovers,
)
from colbertz.index.write.leftovers import check_build_folder, remove
from colbertz.index.write.progress import CodedChunk, Progress, Settings
from colbertz.index.write.segment_writer import SegmentWriter, stored_checksums
from colbertz.index.write.stream import CHUNK_TOKENS, Batch, DocumentStream, ResumableBatches, chunked
from colbertz.progress import Steps, steps

logger = logging.getLogger(__name__)

# Processor seconds of the steps of a build of 6,000 functions with colbertz/nano, for the estimate of the time left. A
# larger model takes longer over the first step, so that less time is left than the bar says.
_SHARES_WITH_MODEL = {"storing": 15.7, "finding centroids": 10.7, "coding": 4.2}
# Where the embeddings are there already, storing them takes little.
_SHARES_WITHOUT_MODEL = {"storing": 1.0, "finding centroids": 10.7, "coding": 4.2}


class CodingKeywords(TypedDict, total=False):
    """Those options of `BuildKeywords` that decide how tokens are coded."""

    nbits: int | None
    codec: str
    bytes_per_token: int | None
    seed: int


class BuildKeywords(CodingKeywords, total=False):
    """The options of building, as keyword arguments of `Index.build`.

    Memory of a build, besides one batch of embeddings: 4 bytes · dim for each sampled token (64 for each centroid, at
    most 4.2 million, and 50,000 more), about 4 KB · dim for each thousand tokens of a chunk, 4 bytes for each token
    while lists are sorted. Disk: dim · nbits / 8 (or `bytes_per_token`) + 10 bytes for each token besides texts and
    metadata, and 2 · dim bytes more while the build runs.

    Attributes:
        nbits: bits for each dimension of a residual: 1, 2, 4 or 8 (default: 4); for the codec "scalar".
        codec: how residuals are coded: "scalar" (the default), with `nbits` for each dimension; "pq", product
            quantisation, a byte for each part of the residual; or "opq", the same after a learned rotation.
        bytes_per_token: parts, and so bytes, of a residual with "pq" and "opq" (default: a quarter of the dimension).
        seed: of sampling and k-means (default: 42). On a CPU the same input and seed give the same files.
        model: where the model that made the embeddings can be loaded from (see `Manifest.model`).
        fingerprint: how `Searcher` recognises that model: one number for each dimension.
        encoding: with what the embeddings were made; the index stores it.
        recipe: what else the embeddings depend on; an interrupted build continues only with the same recipe.
        overwrite: replace the index that is there, if there is one.
        device: a CUDA device that finds centroids and codes; None (the default) for the CPU. The files differ in near
            ties.
        show_progress: as for `colbertz.progress.progress` (default: False).
        num_documents: how many documents there are, if that is known, for the progress.
        chunk_tokens: tokens that are stored and coded at a time (default: 262,144). It does not change the files.
    """

    model: str | None
    fingerprint: Sequence[float] | None
    encoding: Encoding | None
    recipe: str | None
    overwrite: bool
    device: str | torch.device | None
    show_progress: bool | None
    num_documents: int | None
    chunk_tokens: int


def build(
    root: Path,
    batches: Iterable[Batch] | ResumableBatches,
    *,
    nbits: int | None = None,
    codec: str = "scalar",
    bytes_per_token: int | None = None,
    seed: int = 42,
    model: str | None = None,
    fingerprint: Sequence[float] | None = None,
    encoding: Encoding | None = None,
    recipe: str | None = None,
    overwrite: bool = False,
    device: str | torch.device | None = None,
    show_progress: bool | None = False,
    num_documents: int | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
    max_sample: int = codecs.MAX_SAMPLE,
    applied: Applied | None = None,
) -> None:
    """Write the index `root`.

    Args:
        root: a new or empty directory, or an index to replace if `overwrite`.
        batches: documents with their embeddings; of resumable ones, those that are stored are not asked for again.
        nbits, codec, bytes_per_token, seed, model, fingerprint, encoding, recipe, overwrite, device, show_progress,
            num_documents, chunk_tokens: see `BuildKeywords`.
        max_sample: the most tokens that centroids are found from.
        applied: see `Manifest`.

    Raises:
        UserError, TypeError, FileExistsError, BlockingIOError: as `Index.build`.
    """
    coding = Coding.checked(codec, nbits, bytes_per_token)
    check_integer("seed", seed, 0)
    check_integer("chunk_tokens", chunk_tokens, 1)
    check_type("overwrite", overwrite, bool, "True or False")
    for name, text in (("model", model), ("recipe", recipe)):
        check_type(name, text, (str, NoneType), "a string or None")
    check_type("encoding", encoding, (Encoding, NoneType), "an Encoding or None")
    if fingerprint is not None:
        check_type("fingerprint", fingerprint, Iterable, "a list of numbers")
    check_show_progress(show_progress)
    if num_documents is not None:
        check_integer("num_documents", num_documents, 1)
    settings = Settings(coding, seed, model, None if fingerprint is None else list(fingerprint), encoding, recipe)
    gpu = next(iter(checked_devices(device)), None)
    if root.is_file():
        raise UserError(f"cannot build an index at {root}: it is a file; name a directory")
    # Kernels are launched on the current device, wherever their arguments are.
    current = torch.cuda.device(gpu) if gpu is not None else contextlib.nullcontext()
    with only_writer(root), current:
        refuse_foreign(root, overwrite)
        write(
            root,
            _next_generation(root),
            batches,
            settings,
            device=gpu,
            show_progress=show_progress,
            num_documents=num_documents,
            chunk_tokens=chunk_tokens,
            max_sample=max_sample,
            applied=applied,
        )


def _next_generation(root: Path) -> int:
    """The generation after the one at `root`."""
    try:
        old = Manifest.load(root) if (root / MANIFEST).exists() else None
    except ValueError:
        # The manifest is damaged, or of another version. Its files stay until the new index is complete, so no name may
        # be used again.
        return 1 + max(
            [int(name) for path in root.iterdir() for name in re.findall(r"-(\d{6,})$", path.name)], default=0
        )
    remove_leftovers(root, old)
    return old.generation + 1 if old else 1


def write(
    root: Path,
    generation: int,
    batches: Iterable[Batch] | ResumableBatches,
    settings: Settings,
    *,
    device: str | torch.device | None = None,
    show_progress: bool | None,
    num_documents: int | None = None,
    next_number: int = 0,
    chunk_tokens: int = CHUNK_TOKENS,
    max_sample: int = codecs.MAX_SAMPLE,
    applied: Applied | None = None,
) -> None:
    """Build the state `generation` of the index `root`, whose lock this process holds; see `build`.

    Args:
        next_number: see `Manifest.next_number`; the number of documents if that is larger.
        applied: see `Manifest`.

    Raises:
        UserError: if the folder build/ holds files that are not colbertz's.
    """
    check_build_folder(root)
    unfinished = _UnfinishedBuild(root, settings, torch.device(device or "cpu"))
    shares = _SHARES_WITH_MODEL if isinstance(batches, ResumableBatches) else _SHARES_WITHOUT_MODEL
    try:
        with steps("indexing", shares, show_progress) as bar:
            chunks = unfinished.store(batches, chunk_tokens, num_documents, bar)
            codec = unfinished.train(chunks, max_sample, bar)
            segment = unfinished.code(chunks, codec, bar)
    except (ValueError, TypeError):
        # The error may come at the end of a long stream. Once it is mended, the same call continues what is stored.
        resumable = isinstance(batches, ResumableBatches)
        if unfinished.num_stored < (1 if resumable else 2):
            remove(root, root / BUILD)
        raise
    codec_folder, segment_folder = unfinished.hand_over(generation)
    manifest = Manifest(
        generation=generation,
        codec=codec_folder.name,
        segments=(replace(segment, name=segment_folder.name),),
        files={},
        embedding_dim=codec.embedding_dim,
        nbits=codec.coding.nbits,
        next_number=max(next_number, segment.num_documents),
        trained_on=segment.num_tokens,
        model=settings.model,
        fingerprint=settings.fingerprint,
        encoding=settings.encoding,
        applied=applied,
        coding=None if codec.coding.kind == "scalar" else codec.coding,
    )
    commit(root, manifest, [codec_folder, segment_folder])


def _digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each array in a folder, by name, and "" of what is none; nothing if there is no such folder."""
    paths = [path for path in sorted(folder.iterdir()) if path.is_file()] if folder.is_dir() else []
    return {path.name: sha256(path) if is_whole(path) else "" for path in paths}


class _UnfinishedBuild:
    """The folder build/ of an index, and the steps that fill it."""

    def __init__(self, root: Path, settings: Settings, device: torch.device) -> None:
        self._root = root
        self._settings = settings
        self._device = device
        self._progress = Progress(root, settings)
        self._codec_folder = root / BUILD / "codec"
        self._segment_folder = root / BUILD / "segment"
        # If a chunk changes, so does the sample, and with it the codec and all codes.
        self._chunks = ChunkFolder(root / BUILD / "chunks", self._progress.start_over)

    @property
    def num_stored(self) -> int:
        """Chunks that are stored."""
        return len(self._chunks)

    def store(
        self, batches: Iterable[Batch] | ResumableBatches, chunk_tokens: int, num_documents: int | None, bar: Steps
    ) -> list[Chunk]:
        """Step 1: store documents and embeddings, and return the chunks."""
        self._segment_folder.mkdir(exist_ok=True)
        path = SegmentFiles(self._segment_folder).documents
        path.unlink(missing_ok=True)
        chunks: list[Chunk] = []
        resumable = isinstance(batches, ResumableBatches)
        with write_documents(path) as writer:
            if isinstance(batches, ResumableBatches):
                chunks = self._kept(batches.documents, writer)
                batches = batches.after(writer.count, writer.add)
            bar.begin("storing", num_documents, "documents", done=writer.count)
            for documents, embeddings in chunked(batches, chunk_tokens, keep_after_error=resumable):
                self._check_dim(embeddings.values.shape[1])
                if not resumable:
                    writer.add(documents)
                chunks.append(self._chunks.store(len(chunks), documents, embeddings))
                bar.update(len(documents))
        if not chunks:
            raise UserError("an index needs at least one document, got no embeddings")
        if len(self._chunks) > len(chunks):
            self._chunks.remove_from(len(chunks))
        return chunks

    def _check_dim(self, dim: int) -> None:
        self._settings.coding.row_bytes(dim)  # refuses a wrong dimension
        fingerprint = self._settings.fingerprint
        if fingerprint is not None and len(fingerprint) != dim:
            raise UserError(f"fingerprint must have a number for each of {dim} dimensions, got {len(fingerprint)}")

    def _kept(self, documents: DocumentStream, writer: DocumentWriter) -> list[Chunk]:
        """The first chunks that an interrupted build has stored, as far as they are of the same documents."""
        kept: list[Chunk] = []
        while (chunk := self._chunks.load(len(kept))) is not None:
            taken = documents.take(len(chunk.doclens), or_fewer=True)
            if described(taken) != chunk.described:
                documents.put_back(taken)
                break
            writer.add(taken)
            kept.append(chunk)
        return kept

    def train(self, chunks: Sequence[Chunk], max_sample: int, bar: Steps) -> Codec:
        """Step 2: make a codec."""
        folder = self._codec_folder
        if self._progress.codec is not None and _digests(folder) != self._progress.codec:
            logger.warning("%s is damaged: centroids and codes are made again", folder)
            self._progress.start_over()
        if self._progress.codec is None:
            shutil.rmtree(folder, ignore_errors=True)
            num_tokens = sum(chunk.num_tokens for chunk in chunks)
            seed, size = self._settings.seed, codecs.sample_size(num_tokens, max_sample)
            sample = self._chunks.sample(chunks, size, seed).to(self._device)
            bar.begin("finding centroids", 100, "%")
            codec = codecs.train(sample, num_tokens, self._settings.coding, seed, lambda part: bar.update(100 * part))
            codec.save(folder)
            sync_files(folder.iterdir())
            self._progress.codec_trained(_digests(folder))
        return Codec.load(folder, self._settings.coding)

    def code(self, chunks: Sequence[Chunk], codec: Codec, bar: Steps) -> SegmentInfo:
        """Step 3: code the tokens and make the inverted lists."""
        coded, checksums = self._intact(chunks, codec)
        doclens = [length for chunk in chunks[: len(coded)] for length in chunk.doclens]
        num_tokens = sum(chunk.num_tokens for chunk in chunks)
        bar.begin("coding", num_tokens, "tokens", done=sum(doclens))
        with SegmentWriter(
            self._segment_folder,
            codec,
            device=self._device,
            doclens=doclens,
            checksums=checksums,
            num_far=sum(chunk.num_far for chunk in coded),
            norm_deviation=coded[-1].norm_deviation if coded else 0.0,
        ) as writer:
            for chunk_idx in range(len(coded), len(chunks)):
                num_far = writer.num_far
                checksums = writer.add_tokens(self._chunks.embeddings(chunk_idx, chunks[chunk_idx]))
                writer.sync()
                crc = zlib.crc32(checksums.tobytes())
                coded.append(CodedChunk(writer.num_far - num_far, writer.norm_deviation, crc))
                self._progress.chunks_coded(coded)
                bar.update(chunks[chunk_idx].num_tokens)
        return writer.info

    def _intact(self, chunks: Sequence[Chunk], codec: Codec) -> tuple[list[CodedChunk], np.ndarray]:
        """The first coded chunks, as far as their files hold what was written, and the checksums of their documents."""
        coded = self._progress.coded
        doclens = [length for chunk in chunks[: len(coded)] for length in chunk.doclens]
        checksums = stored_checksums(self._segment_folder, codec, doclens)
        bounds = offsets_of([len(chunk.doclens) for chunk in chunks[: len(coded)]]).tolist()
        for chunk_idx, (first, last) in enumerate(pairwise(bounds)):
            if last > len(checksums) or zlib.crc32(checksums[first:last].tobytes()) != coded[chunk_idx].checksum:
                logger.warning(
                    "the codes of chunk %d in %s are damaged: they and those after it are made again",
                    chunk_idx,
                    self._segment_folder,
                )
                self._progress.chunks_coded(coded[:chunk_idx])
                return coded[:chunk_idx], checksums[:first]
        return list(coded), checksums

    def hand_over(self, generation: int) -> tuple[Path, Path]:
        """Move codec and segment into the index. After this a build that is killed repeats steps 2 and 3."""
        self._progress.start_over(generation)
        codec_folder, segment_folder = (self._root / next_name(kind, generation) for kind in ("codec", "segment"))
        self._codec_folder.rename(codec_folder)
        self._segment_folder.rename(segment_folder)
        return codec_folder, segment_folder

"""Embeddings on their way into an index: the chunks of consecutive documents that a build stores first.

build/chunks/000000.npy    (num_tokens, E) float16
build/chunks/000000.json   lengths of the documents, and checksums; written last, so it says that the chunk is stored
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from colbertz.document import Document
from colbertz.files import replaced_file, sha256
from colbertz.index.store.arrays import is_whole, save_array
from colbertz.index.write import checked_json
from colbertz.ragged import Ragged

logger = logging.getLogger(__name__)

# The files that say that a chunk is stored. A temporary file that a killed process leaves begins with a dot.
_STORED = "[0-9]*.json"


@dataclass(frozen=True)
class Chunk:
    """A stored chunk.

    Attributes:
        doclens: the number of tokens of each document.
        sha256: of the file with the embeddings.
        described: SHA-256 of the documents' ids, texts and metadata.
    """

    doclens: list[int]
    sha256: str
    described: str

    @property
    def num_tokens(self) -> int:
        return sum(self.doclens)


class ChunkFolder:
    """The folder build/chunks."""

    def __init__(self, folder: Path, on_change: Callable[[], None]) -> None:
        """Open the folder, or create it.

        Args:
            folder: where the chunks are.
            on_change: called before stored chunks are replaced or removed, because what was made of them is obsolete.
        """
        self._folder = folder
        self._on_change = on_change
        folder.mkdir(exist_ok=True)

    def __len__(self) -> int:
        """The number of stored chunks."""
        return len(list(self._folder.glob(_STORED)))

    def load(self, chunk_idx: int) -> Chunk | None:
        """A chunk that an interrupted build has stored; None if there is none, or if its embeddings are damaged."""
        rows, about = self._paths(chunk_idx)
        chunk = _read(about)
        if chunk is not None and rows.is_file() and is_whole(rows) and sha256(rows) == chunk.sha256:
            return chunk
        if about.exists():
            logger.warning("%s is damaged: its embeddings, and those after it, are made again", rows)
        return None

    def store(self, chunk_idx: int, documents: Iterable[Document], embeddings: Ragged) -> Chunk:
        """Store a chunk of float16 embeddings. If another one was stored there, that and those after it are removed."""
        path, about = self._paths(chunk_idx)
        with replaced_file(path) as temporary:
            save_array(temporary, embeddings.values.numpy())
            chunk = Chunk(embeddings.lengths.tolist(), sha256(temporary), described(documents))
            if _read(about) != chunk:
                self.remove_from(chunk_idx)
        checked_json.save(about, asdict(chunk))
        return chunk

    def remove_from(self, first: int) -> None:
        """Remove chunk `first` and those after it, the last one first."""
        self._on_change()
        for path in sorted(self._folder.glob(_STORED), reverse=True):
            if int(path.stem) >= first:
                path.unlink()

    def embeddings(self, chunk_idx: int, chunk: Chunk) -> Ragged:
        """The embeddings of a chunk, (num_tokens, E) float16."""
        rows = np.load(self._paths(chunk_idx)[0], allow_pickle=False)
        return Ragged.from_lengths(torch.from_numpy(rows), chunk.doclens)

    def sample(self, chunks: Sequence[Chunk], size: int, seed: int) -> torch.Tensor:
        """`size` random tokens of all `chunks`, in random order: (size, E) float32."""
        # Unlike a permutation of all tokens, this needs memory only for the sample, if that is a small part of them.
        chosen = np.random.default_rng(seed).choice(sum(chunk.num_tokens for chunk in chunks), size, replace=False)
        order = np.argsort(chosen)
        ascending = chosen[order]
        sample = torch.empty(0)
        begin = 0
        for chunk_idx, chunk in enumerate(chunks):
            end = begin + chunk.num_tokens
            first, last = np.searchsorted(ascending, (begin, end))
            rows = np.load(self._paths(chunk_idx)[0], mmap_mode="r", allow_pickle=False)
            if not chunk_idx:
                sample = torch.empty(size, rows.shape[1])
            sample[torch.from_numpy(order[first:last])] = torch.from_numpy(rows[ascending[first:last] - begin]).float()
            begin = end
        return sample

    def _paths(self, chunk_idx: int) -> tuple[Path, Path]:
        """The files of a chunk: its embeddings, and what is known of them."""
        return self._folder / f"{chunk_idx:06d}.npy", self._folder / f"{chunk_idx:06d}.json"


def described(documents: Iterable[Document]) -> str:
    """The SHA-256 of the documents' ids, texts and metadata."""
    digest = hashlib.sha256()
    for document in documents:
        # Characters that cannot be encoded are refused by `DocumentWriter`, with a better message.
        digest.update(repr((document.id, document.text, document.metadata)).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def _read(path: Path) -> Chunk | None:
    content = checked_json.load(path)
    return None if content is None else Chunk(**content)

"""What is exported, some documents at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from colbertz.document import Document
from colbertz.index.store.snapshot import Snapshot
from colbertz.integrations.export.bits import sign_bits
from colbertz.integrations.export.fixed_dimensional import FixedDimensional
from colbertz.progress import progress
from colbertz.ragged import Ragged

# Tokens and documents of a batch: at most about 8 MB of embeddings of 128 dimensions, and 10 MB of encodings.
_TOKENS = 16384
_DOCUMENTS = 256


@dataclass(frozen=True, eq=False)
class Batch:
    """Some documents.

    Attributes:
        documents: their ids, texts and metadata.
        embeddings: decoded, (num_tokens, E) float32.
        bits: the signs of the embeddings, (num_tokens, bytes) uint8; None if they are not wanted.
        encodings: the fixed-dimensional encodings, (num_documents, dim) float32; None if they are not wanted.
    """

    documents: list[Document]
    embeddings: Ragged
    bits: np.ndarray | None
    encodings: np.ndarray | None


@dataclass(frozen=True)
class Source:
    """An index, and what of it is exported. Iterating over it reads the documents that are not deleted, in order.

    Attributes:
        snapshot: the index.
        fde: makes the fixed-dimensional encodings; None to leave them out.
        bits: whether the signs of the embeddings are wanted.
        show_progress: as for `colbertz.progress.progress`.
    """

    snapshot: Snapshot
    fde: FixedDimensional | None
    bits: bool
    show_progress: bool | None

    @property
    def embedding_dim(self) -> int:
        return self.snapshot.codec.embedding_dim

    def __iter__(self) -> Iterator[Batch]:
        snapshot = self.snapshot
        doc_idx = snapshot.doc_idx_in(snapshot.live)
        with progress("exporting", len(doc_idx), "documents", self.show_progress) as bar:
            for block in snapshot.blocks(doc_idx, _TOKENS):
                for first in range(0, len(block), _DOCUMENTS):
                    part = block[first : first + _DOCUMENTS]
                    snapshot.require_untouched()
                    embeddings = snapshot.decode(part)
                    yield Batch(
                        snapshot.documents(part),
                        embeddings,
                        sign_bits(embeddings.values) if self.bits else None,
                        None if self.fde is None else self.fde.documents(embeddings).numpy(),
                    )
                    bar.update(len(part))

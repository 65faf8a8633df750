"""Coding the residuals of an index in another way, without its embeddings: for another format, or for another size.

Centroids and codes stay. Residuals are those of the decoded vectors, so what the first coding lost stays lost, and the
second loses a little more.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from colbertz.index.store.codec import Codec, quantiser_for
from colbertz.index.store.coding import Coding
from colbertz.index.store.encoded import Encoded
from colbertz.index.store.manifest import SegmentInfo
from colbertz.index.store.snapshot import Snapshot
from colbertz.index.write.segment_writer import SegmentWriter
from colbertz.progress import progress

logger = logging.getLogger(__name__)

# Tokens that buckets or codewords are made from.
_SAMPLE = 1 << 16
_SEED = 42


def recode(
    snapshot: Snapshot, coding: Coding, *, block_tokens: int
) -> tuple[Codec, Callable[[Encoded], Encoded], float]:
    """How to code the residuals of an index as `coding` says.

    Returns:
        The codec; a function that codes coded tokens again; and what that costs: the mean distance, over a sample,
        between a token's vector before and after, for vectors of unit length.
    """
    old = snapshot.codec
    sample = _sample(snapshot, block_tokens)
    before = _units(sample, old)
    centroids = old.centroids.numpy()
    new = replace(old, quantiser=quantiser_for(before - centroids[sample.codes], coding, _SEED))

    def again(encoded: Encoded) -> Encoded:
        packed, inverse_norms, _ = new.quantiser.encode(_units(encoded, old), centroids, encoded.codes)
        return Encoded(encoded.codes, packed, inverse_norms * old.norms(encoded))

    cost = float(np.linalg.norm(before - _units(again(sample), new), axis=1).mean())
    return new, again, cost


def write_recoded(
    snapshot: Snapshot, coding: Coding, folders: tuple[Path, Path], *, show_progress: bool | None, block_tokens: int
) -> tuple[Codec, SegmentInfo]:
    """Write the codec and the documents that are not deleted, as one segment, to two folders; warns what it costs."""
    codec, again, cost = recode(snapshot, coding, block_tokens=block_tokens)
    logger.warning(
        "residuals %s are coded again %s: a token's vector moves by %.3f in the mean, and scores change a little; an"
        " index of the embeddings would lose less",
        snapshot.codec.coding,
        codec.coding,
        cost,
    )
    codec.save(folders[0])
    doc_idx = snapshot.doc_idx_in(snapshot.live)
    documents, num_tokens = snapshot.live_documents(), int(snapshot.doclens(doc_idx).sum())
    with (
        SegmentWriter(folders[1], codec) as writer,
        progress("coding again", num_tokens, "tokens", show_progress) as bar,
    ):
        for block in snapshot.blocks(doc_idx, block_tokens):
            encoded = snapshot.encoded(block)
            writer.add_coded(islice(documents, len(block)), again(encoded), snapshot.doclens(block))
            bar.update(len(encoded))
    return codec, replace(writer.info, num_far=snapshot.estimated_num_far())


def _units(encoded: Encoded, codec: Codec) -> np.ndarray:
    """(N, E) float32: the decoded vectors at unit length."""
    norms = codec.inverse_norms(encoded.codes, encoded.residuals)
    units: np.ndarray = codec.decode(encoded.codes, encoded.residuals, norms).numpy()
    return units


def _sample(snapshot: Snapshot, block_tokens: int) -> Encoded:
    """The tokens of random documents, about `_SAMPLE` of them, or all if there are fewer."""
    doc_idx = np.random.default_rng(_SEED).permutation(snapshot.doc_idx_in(snapshot.live))
    enough = int(np.searchsorted(np.cumsum(snapshot.doclens(doc_idx)), _SAMPLE)) + 1
    return Encoded.cat([snapshot.encoded(block) for block in snapshot.blocks(np.sort(doc_idx[:enough]), block_tokens)])

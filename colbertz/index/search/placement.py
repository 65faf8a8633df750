"""Parts of an index in the memory of GPUs.

A shard is a range of documents with all arrays that a search needs. An index that fits into the devices' memory is
divided among them and stays there; a larger one is divided into shards that are loaded one after the other for each
search.

Legend: K centroids, E embedding dim.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from colbertz.index.store.codec import Codec
from colbertz.index.store.scalar import Scalar
from colbertz.index.store.segment import SegmentArrays
from colbertz.index.store.snapshot import Snapshot
from colbertz.kernels.arrays import CodedDocuments, PostingLists
from colbertz.kernels.cpu import bits
from colbertz.kernels.cpu.threads import Lock

# Fraction of a device's free memory that an index may take to stay there.
_RESIDENT = 0.7
# Fraction of it that a shard may take which is loaded for one search.
_STREAMED = 0.2
# Bytes for each token besides codes and residuals: norms, lists, and the sorting that makes the lists.
_OTHER_BYTES = 4 + 8 + 40


@dataclass(frozen=True, eq=False)
class DeviceCodec:
    """Rotated centroids, and bucket weights or codewords, on a device: in float32, and in float16 for early stages.

    Attributes:
        centroids: (K, E) float32.
        weights: (2^nbits,) float32, indexed by the bucket's bits in reverse order, as they are in a packed byte; or the
            codewords (256, E) float32 of a product quantiser.
        half_centroids: the centroids in float16.
        half_weights: the weights in float16.
    """

    centroids: Tensor
    weights: Tensor
    half_centroids: Tensor
    half_weights: Tensor

    @classmethod
    def from_codec(cls, codec: Codec, device: torch.device) -> "DeviceCodec":
        """Copy a codec to a device."""
        quantiser = codec.quantiser
        if isinstance(quantiser, Scalar):
            weights = torch.empty_like(quantiser.weights)
            weights[torch.from_numpy(bits.reversed_bits(quantiser.nbits)).long()] = quantiser.weights
        else:
            weights = quantiser.codewords
        centroids, weights = torch.from_numpy(codec.rotated_centroids).to(device), weights.to(device)
        return cls(centroids, weights, centroids.half(), weights.half())


@dataclass(frozen=True, eq=False)
class Shard:
    """Consecutive documents on a device.

    Attributes:
        codec: that of the whole index.
        first_doc_idx: the doc_idx of the first document; inside the shard, documents count from 0.
        documents: their coded tokens.
        lists: the documents of each cell.
    """

    codec: DeviceCodec
    first_doc_idx: int
    documents: CodedDocuments
    lists: PostingLists

    def __len__(self) -> int:
        return len(self.documents.offsets) - 1

    @property
    def device(self) -> torch.device:
        return self.documents.offsets.device


class ShardRange(NamedTuple):
    """Documents `first` … `last` - 1, by doc_idx, and the device where they are searched."""

    first: int
    last: int
    device: torch.device


@dataclass(frozen=True, eq=False)
class Placed:
    """A snapshot of an index on devices.

    Attributes:
        snapshot: the whole index.
        devices: where it is searched.
        ranges: the documents of each shard.
        resident: the shards, if they stay on the devices; None if each search loads them.
    """

    snapshot: Snapshot
    devices: tuple[torch.device, ...]
    ranges: tuple[ShardRange, ...]
    resident: tuple[Shard, ...] | None

    def shards(self) -> Iterator[Shard]:
        """One shard after the other. A shard that is not resident is loaded now, and freed when the caller drops it."""
        yield from _load_all(self.snapshot, self.ranges) if self.resident is None else self.resident


class PlacementCache:
    """The snapshot that was searched last on devices, with what stays in their memory. Threads may share it.

    Attributes:
        placed: the last placement; None before the first.
    """

    def __init__(self) -> None:
        self.placed: Placed | None = None
        self._lock = Lock()

    def get(self, snapshot: Snapshot, devices: tuple[torch.device, ...], memory: int | None = None) -> Placed:
        """The snapshot on these devices. If another one is there, its memory is freed first.

        Args:
            snapshot: what is to be searched.
            devices: at least one.
            memory: see `place`.
        """
        with self._lock:
            placed = self.placed
            if placed is None or placed.snapshot is not snapshot or placed.devices != devices:
                placed = self.placed = None
                placed = self.placed = place(snapshot, devices, memory)
            return placed


def place(snapshot: Snapshot, devices: Sequence[torch.device], memory: int | None = None) -> Placed:
    """Put an index on devices, or decide that each search has to load it in parts.

    Args:
        snapshot: the index.
        devices: at least one.
        memory: bytes that are free on each device; None to ask the devices.
    """
    free = min(torch.cuda.mem_get_info(device)[0] for device in devices) if memory is None else memory
    num_tokens = int(sum(segment.arrays.offsets[-1] for segment in snapshot.segments))
    codec = snapshot.codec
    total = num_tokens * (codec.code_dtype.itemsize + codec.row_bytes + _OTHER_BYTES)
    stays = total <= _RESIDENT * free * len(devices)
    count = len(devices) if stays else max(1, -(-total // max(1, int(_STREAMED * free))))
    ranges = _ranges(snapshot, count, devices)
    resident = tuple(_load_all(snapshot, ranges)) if stays else None
    return Placed(snapshot, tuple(devices), ranges, resident)


def _ranges(snapshot: Snapshot, count: int, devices: Sequence[torch.device]) -> tuple[ShardRange, ...]:
    """At most `count` ranges of documents with about equally many tokens, none of them empty, on devices in turn."""
    num_documents = int(snapshot.first_doc_idx[-1])
    ends = np.cumsum(snapshot.doclens(np.arange(num_documents)))
    num_tokens = ends[-1] if num_documents else 0
    inner = np.searchsorted(ends, [num_tokens * part / count for part in range(1, count)]).tolist()
    pairs = [(first, last) for first, last in pairwise([0, *inner, num_documents]) if first < last]
    return tuple(ShardRange(first, last, devices[i % len(devices)]) for i, (first, last) in enumerate(pairs))


def _load_all(snapshot: Snapshot, ranges: Sequence[ShardRange]) -> Iterator[Shard]:
    codecs = {device: DeviceCodec.from_codec(snapshot.codec, device) for device in {device for _, _, device in ranges}}
    for shard_range in ranges:
        yield _load(snapshot, codecs[shard_range.device], shard_range)


def _load(snapshot: Snapshot, codec: DeviceCodec, shard_range: ShardRange) -> Shard:
    """Copy documents to a device and make their lists there."""
    parts = []
    for segment, first_doc_idx in zip(snapshot.segments, snapshot.first_doc_idx.tolist()):
        first = max(shard_range.first - first_doc_idx, 0)
        last = min(shard_range.last - first_doc_idx, len(segment))
        if first < last:
            segment.require_tokens(np.arange(last), first, last)
            parts.append(_part(segment.arrays, first, last))
    lengths, codes, residuals, inverse_norms = (
        torch.from_numpy(np.concatenate(arrays)).to(shard_range.device) for arrays in zip(*parts)
    )
    offsets = F.pad(lengths.cumsum(0), (1, 0))
    documents = CodedDocuments(offsets, codes, residuals, inverse_norms)
    return Shard(codec, shard_range.first, documents, _lists(codes, lengths, len(codec.centroids)))


def _part(arrays: SegmentArrays, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The doclens, codes, residuals and inverse norms of documents `first` … `last` - 1 of a segment."""
    tokens = slice(int(arrays.offsets[first]), int(arrays.offsets[last]))
    codes = arrays.codes[tokens]
    # Of unsigned integers, PyTorch can read uint16 but does little with uint32. Every code fits into int32.
    codes = codes if codes.dtype == np.uint16 else codes.astype(np.int32)
    return np.diff(arrays.offsets[first : last + 1]), codes, arrays.residuals[tokens], arrays.inverse_norms[tokens]


def _lists(codes: Tensor, doclens: Tensor, num_cells: int) -> PostingLists:
    """The documents of each cell."""
    num_documents = len(doclens)
    documents = torch.arange(num_documents, device=codes.device).repeat_interleave(doclens, output_size=len(codes))
    postings = torch.unique(codes.long() * num_documents + documents)
    bounds = torch.arange(num_cells + 1, device=codes.device) * num_documents
    return PostingLists((postings % num_documents).int(), torch.searchsorted(postings, bounds))

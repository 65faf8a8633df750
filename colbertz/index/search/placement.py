"""Parts of an index in the memory of GPUs.

A shard is a range of documents with everything a search needs of them. An index that fits is spread over the devices
and stays there; one that does not is cut into shards that are loaded for each batch of queries, one after the other.

Legend: K centroids, E embedding dim.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from colbertz.index.store.codec import Codec
from colbertz.index.store.snapshot import Snapshot
from colbertz.kernels.cpu import residuals as residuals_cpu

# Of a device's free memory: what an index may take to stay, and a shard that is loaded for one search.
_RESIDENT, _STREAMED = 0.7, 0.2
# Bytes a token besides codes and residuals: norms, lists, and the sorting that makes lists.
_OTHER_BYTES = 4 + 8 + 40


@dataclass(frozen=True, eq=False)
class DeviceCodec:
    """What decodes, on a device: in float32, and in float16 for the stages before the last.

    Attributes:
        centroids: (K, E) float32.
        weights: (2^nbits,) float32, by the bucket's bits in reverse, as they stand in a packed byte.
        half_centroids, half_weights: the same in float16.
    """

    centroids: Tensor
    weights: Tensor
    half_centroids: Tensor
    half_weights: Tensor

    @classmethod
    def of(cls, codec: Codec, device: torch.device) -> "DeviceCodec":
        weights = torch.empty_like(codec.bucket_weights)
        weights[torch.from_numpy(residuals_cpu.reversed_bits(codec.nbits)).long()] = codec.bucket_weights
        centroids, weights = codec.centroids.to(device), weights.to(device)
        return cls(centroids, weights, centroids.half(), weights.half())


@dataclass(frozen=True, eq=False)
class Shard:
    """Consecutive documents on a device.

    Attributes:
        codec: that of the whole index.
        first: the number of the first document in the index; here it is 0.
        offsets: (num_documents + 1,) int64, where each document's tokens begin.
        codes: (num_tokens,) uint16 or int32.
        residuals: (num_tokens, E · nbits / 8) uint8.
        inverse_norms: (num_tokens,) float32.
        lists: (postings,) int32, the documents of each cell, sorted.
        list_offsets: (K + 1,) int64.
    """

    codec: DeviceCodec
    first: int
    offsets: Tensor
    codes: Tensor
    residuals: Tensor
    inverse_norms: Tensor
    lists: Tensor
    list_offsets: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def device(self) -> torch.device:
        return self.offsets.device


@dataclass(frozen=True, eq=False)
class Placed:
    """An index on devices.

    Attributes:
        snapshot: the index.
        devices: where it is.
        ranges: first document, last document (exclusive) and device of each shard.
        resident: the shards, if they stay on the devices.
    """

    snapshot: Snapshot
    devices: tuple[torch.device, ...]
    ranges: tuple[tuple[int, int, torch.device], ...]
    resident: tuple[Shard, ...] | None

    def shards(self) -> Iterator[Shard]:
        """One after the other; those that do not stay are loaded, and freed by whoever lets go of them."""
        yield from _loaded(self.snapshot, self.ranges) if self.resident is None else self.resident


def place(snapshot: Snapshot, devices: Sequence[torch.device], memory: int | None = None) -> Placed:
    """Put an index on devices, or decide that it has to be loaded anew for each batch.

    Args:
        snapshot: the index.
        devices: at least one.
        memory: bytes that may be used on each; None for what is free there.
    """
    free = min(_free(device) for device in devices) if memory is None else memory
    num_tokens = int(sum(segment.arrays.offsets[-1] for segment in snapshot.segments))
    codec = snapshot.codec
    total = num_tokens * (codec.code_dtype.itemsize + codec.embedding_dim * codec.nbits // 8 + _OTHER_BYTES)
    stays = total <= _RESIDENT * free * len(devices)
    count = len(devices) if stays else max(1, -(-total // max(1, int(_STREAMED * free))))
    ranges = _ranges(snapshot, count, devices)
    resident = tuple(_loaded(snapshot, ranges)) if stays else None
    return Placed(snapshot, tuple(devices), ranges, resident)


def _free(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0]


def _ranges(
    snapshot: Snapshot, count: int, devices: Sequence[torch.device]
) -> tuple[tuple[int, int, torch.device], ...]:
    """`count` ranges of documents with about as many tokens each, dealt out to the devices; no empty ones."""
    num_documents = int(snapshot.first_doc_idx[-1])
    ends = np.cumsum(snapshot.doclens(np.arange(num_documents)))
    tokens = ends[-1] if num_documents else 0
    bounds = [0, *np.searchsorted(ends, [tokens * part / count for part in range(1, count)]).tolist(), num_documents]
    pairs = [(first, last) for first, last in pairwise(bounds) if first < last]
    return tuple((first, last, devices[i % len(devices)]) for i, (first, last) in enumerate(pairs))


def _loaded(snapshot: Snapshot, ranges: Sequence[tuple[int, int, torch.device]]) -> Iterator[Shard]:
    codecs = {device: DeviceCodec.of(snapshot.codec, device) for device in {device for _, _, device in ranges}}
    for first, last, device in ranges:
        yield _load(snapshot, codecs[device], first, last, device)


def _load(snapshot: Snapshot, codec: DeviceCodec, first: int, last: int, device: torch.device) -> Shard:
    """Copy documents `first` … `last` to the device and make their lists there."""
    parts = []
    for segment, begin in zip(snapshot.segments, snapshot.first_doc_idx.tolist()):
        start, end = max(first - begin, 0), min(last - begin, len(segment))
        if start < end:
            tokens = slice(int(segment.arrays.offsets[start]), int(segment.arrays.offsets[end]))
            # Of unsigned integers PyTorch knows little; uint16 it can read, and int32 holds any wider code.
            narrow = segment.arrays.codes.dtype == np.uint16
            own_codes = segment.arrays.codes[tokens] if narrow else segment.arrays.codes[tokens].astype(np.int32)
            doclens = np.diff(segment.arrays.offsets[start : end + 1])
            parts.append((doclens, own_codes, segment.arrays.residuals[tokens], segment.arrays.inverse_norms[tokens]))
    lengths, codes, residuals, inverse_norms = (
        torch.from_numpy(np.concatenate(arrays)).to(device) for arrays in zip(*parts)
    )
    offsets = F.pad(lengths.cumsum(0), (1, 0))
    lists, list_offsets = _lists(codes, lengths, len(codec.centroids))
    return Shard(codec, first, offsets, codes, residuals, inverse_norms, lists, list_offsets)


def _lists(codes: Tensor, doclens: Tensor, num_cells: int) -> tuple[Tensor, Tensor]:
    """The documents of each cell (postings,) int32, sorted, and where each cell's begin, (num_cells + 1,) int64."""
    num_documents = len(doclens)
    numbers = torch.arange(num_documents, device=codes.device)
    documents = numbers.repeat_interleave(doclens, output_size=len(codes))
    postings = torch.unique(codes.long() * num_documents + documents)
    bounds = torch.arange(num_cells + 1, device=codes.device) * num_documents
    return (postings % num_documents).int(), torch.searchsorted(postings, bounds)

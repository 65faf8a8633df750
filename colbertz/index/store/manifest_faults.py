"""What no manifest can say: numbers, texts and names that no index has.

The functions take a `Manifest` (manifest.py), whose fields may still be of any type that JSON can hold.
"""

import re
from typing import Any

from colbertz.index.store.layout import NBITS

# A larger count is damage. Sums and products of smaller ones stay within what Python's floating point can hold.
_MAX_COUNT = 1 << 62
# So that a number is finite in float32 too.
_MAX_FLOAT = 1e38


def wrong_value(manifest: Any) -> str | None:
    """A number or a text that no index can have, in words; None if there is none."""
    counts: list[tuple[str, Any, int]] = [
        (name, getattr(manifest, name), least)
        for name, least in (("generation", 1), ("embedding_dim", 1), ("nbits", 1), ("next_number", 0))
    ]
    counts.append(("trained_on", manifest.trained_on, 1))
    for segment in manifest.segments:
        counts += [("num_documents", segment.num_documents, 1), ("num_tokens", segment.num_tokens, 1)]
        counts += [("num_far", segment.num_far, 0), ("num_deleted", segment.num_deleted, 0)]
    counts += [("size", checksum.size, 0) for checksum in manifest.files.values()]
    for name, value, least in counts:
        if type(value) is not int or not least <= value < _MAX_COUNT:
            return f"{name} is {value!r:.80} and must be an integer of at least {least}"
    if manifest.nbits not in NBITS:
        return f"nbits is {manifest.nbits} and must be one of {', '.join(map(str, NBITS))}"
    coding: Any = manifest.coding
    if coding is not None and (fault := coding.fault(manifest.embedding_dim)):
        return f"coding is {coding!r:.200}: {fault}"
    for segment in manifest.segments:
        deviation: Any = segment.norm_deviation
        if type(deviation) not in (int, float) or not 0 <= deviation < _MAX_FLOAT:
            return f"norm_deviation is {deviation!r:.80} and must be a number of at least 0"
        if segment.num_far > segment.num_tokens or segment.num_deleted >= segment.num_documents:
            return f"the counts of {segment!r:.200} contradict each other"
        has_checksums: Any = segment.has_checksums
        if type(has_checksums) is not bool:
            return f"has_checksums is {has_checksums!r:.80} and must be true or false"
    model: Any = manifest.model
    if not isinstance(model, str | None):
        return f"model is {model!r:.80} and must be a string"
    fingerprint: Any = manifest.fingerprint
    if fingerprint is not None and not (
        isinstance(fingerprint, list)
        and len(fingerprint) == manifest.embedding_dim
        and all(type(value) in (int, float) and abs(value) < _MAX_FLOAT for value in fingerprint)
    ):
        return f"fingerprint is {fingerprint!r:.80} and must be {manifest.embedding_dim} numbers"
    encoding: Any = manifest.encoding
    if encoding is not None and not (isinstance(encoding.backend, str) and isinstance(encoding.dtype, str)):
        return f"encoding is {encoding!r:.200} and must hold two strings"
    applied: Any = manifest.applied
    if applied is not None and not (
        isinstance(applied.log, str) and type(applied.record) is int and 0 < applied.record < _MAX_COUNT
    ):
        return f"applied is {applied!r:.200} and must hold a string and a number of at least 1"
    return None


def wrong_name(manifest: Any) -> str | None:
    """A name of a folder or file that cannot be in a manifest, in words; None if there is none."""
    names: list[Any] = [segment.name for segment in manifest.segments]  # of any type that JSON can hold
    kinds: list[tuple[str, list[Any]]] = [("codec", [manifest.codec]), ("segment", names)]
    for kind, folders in kinds:
        for name in folders:
            if not isinstance(name, str) or not re.fullmatch(rf"{kind}-[0-9]{{6,}}", name):
                return f"{kind} {name!r:.80}"
    if len(set(names)) < len(names):
        return "two segments have the same name"
    for segment in manifest.segments:
        pattern = rf"{segment.name}/deleted-[0-9]{{6,}}\.npy"
        named = isinstance(segment.deleted, str) and re.fullmatch(pattern, segment.deleted) is not None
        if not (named if segment.num_deleted else segment.deleted is None):
            return f"deleted is {segment.deleted!r:.80} where {segment.num_deleted} documents are deleted"
        documents: Any = segment.documents
        pattern = rf"{segment.name}/documents-[0-9]{{6,}}\.sqlite"
        if documents is not None and not (isinstance(documents, str) and re.fullmatch(pattern, documents)):
            return f"documents is {documents!r:.80}"
    missing = sorted(set(manifest.file_names) - set(manifest.files))
    return f"it has no checksum of {missing[0]}" if missing else None

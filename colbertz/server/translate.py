"""From the wire format to colbertz's types and back."""

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from colbertz.index import SearchOptions
from colbertz.ragged import Ragged
from colbertz.server import schemas
from colbertz.server.errors import DimensionMismatch
from colbertz.server.refusals import bad_request
from colbertz.server.settings import Settings

# next-plaid's defaults.
_TOP_K = 10
_ALPHA = 0.75
_BYTES_PER_FLOAT = 4


def matrix(rows: list[list[float]] | None, b64: str | None, shape: list[int] | None, what: str) -> Tensor:
    """The embeddings (num_tokens, E) of a text, float32, from nested lists or from base64.

    Raises:
        Refusal: 400 if there are neither, the rows differ in length, the bytes do not fit the shape, or a value is no
            finite float32.
    """
    if b64 is not None and shape is not None:
        try:
            raw = base64.b64decode(b64, validate=True)
        except (binascii.Error, ValueError) as error:
            raise bad_request(f"{what}: invalid base64: {error}") from None
        expected = shape[0] * shape[1] * _BYTES_PER_FLOAT
        if len(raw) != expected:
            raise bad_request(f"{what}: the shape {shape} needs {expected:,} bytes, and there are {len(raw):,}")
        values = torch.frombuffer(bytearray(raw), dtype=torch.float32).view(shape)
    elif rows is not None:
        for position, row in enumerate(rows):
            if len(row) != len(rows[0]):
                raise bad_request(f"{what}: row {position} has {len(row)} numbers, and those before it {len(rows[0])}")
        values = torch.tensor(rows, dtype=torch.float64).to(torch.float32)
    else:
        raise bad_request(f"{what}: give embeddings as lists, or as base64 with their shape")
    if not bool(values.isfinite().all()):
        raise bad_request(f"{what} has embeddings that are NaN, infinite or too large for float32")
    return values


def ragged(items: Sequence[schemas.Embeddings], what: str, settings: Settings) -> Ragged:
    """The embeddings of several texts.

    Args:
        items: one for each text, at least one.
        what: "document" or "query", for messages.
        settings: for the most tokens.

    Raises:
        Refusal: 400 as `matrix`, and for too many tokens.
        DimensionMismatch: for another dimension than that of the first text.
    """
    num_tokens = sum(_num_tokens(item) for item in items)
    if num_tokens > settings.max_tokens:
        raise bad_request(f"a request may have {settings.max_tokens:,} tokens, and this one has {num_tokens:,}")
    tensors: list[Tensor] = []
    for position, item in enumerate(items):
        tensor = matrix(item.embeddings, item.embeddings_b64, item.shape, f"{what} {position}")
        if tensors and tensor.shape[1] != tensors[0].shape[1]:
            raise DimensionMismatch(tensors[0].shape[1], tensor.shape[1])
        tensors.append(tensor)
    return Ragged.from_list(tensors)


def _num_tokens(item: schemas.Embeddings) -> int:
    """The number of rows, before anything is made of them."""
    if item.embeddings_b64 is not None and item.shape is not None:
        return item.shape[0]
    return len(item.embeddings or ())


def to_b64(embeddings: Tensor) -> str:
    return base64.b64encode(embeddings.to(torch.float32).contiguous().numpy().tobytes()).decode("ascii")


def ids_of(metadata: Sequence[dict[str, Any]]) -> list[str | None]:
    """The id that each document's metadata give it: a string, or an integer in digits; None for the next number.

    Raises:
        Refusal: 400 for an id of another type, and for one that two documents have.
    """
    ids: list[str | None] = []
    seen = set()
    for position, fields in enumerate(metadata):
        value = fields.get("id")
        if value is not None and (isinstance(value, bool) or not isinstance(value, str | int) or value == ""):
            raise bad_request(f"metadata {position}: id must be a string or an integer, got {value!r:.80}")
        doc_id = None if value is None else str(value)
        if doc_id is not None and doc_id in seen:
            raise bad_request(f"metadata {position}: two documents have the id {doc_id!r:.80}; ids must be unique")
        seen.add(doc_id)
        ids.append(doc_id)
    return ids


def words_of(value: Any) -> str:
    """The words of metadata, for the keyword search of documents that come without a text; as next-plaid takes them."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    items = value.values() if isinstance(value, dict) else value or ()
    return " ".join(filter(None, map(words_of, items)))


def row(position: int, metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata as next-plaid gives them, with the document's position as `_subset_`."""
    return {"_subset_": position, **metadata}


def top_k(given: int | None, settings: Settings) -> int:
    """The number of hits.

    Raises:
        Refusal: 400 for more than allowed.
    """
    k = _TOP_K if given is None else given
    if k > settings.max_top_k:
        raise bad_request(f"top_k may be {settings.max_top_k:,}, got {k:,}")
    return k


def search_options(
    body: schemas.Search, subset: Sequence[str] | None, hybrid: bool, settings: Settings
) -> SearchOptions:
    """The options of a search. `alpha` is how much meaning counts; ours is how much words count."""
    where = body.filter_condition
    return SearchOptions(
        n_ivf_probe=body.params.n_ivf_probe,
        n_full_scores=body.params.n_full_scores,
        where=where,
        parameters=() if where is None else tuple(body.filter_parameters or ()),
        where_seconds=settings.filter_seconds,
        subset=subset,
        hybrid=hybrid,
        text_weight=1 - (_ALPHA if body.alpha is None else body.alpha),
        fusion="reciprocal_rank" if body.fusion == "rrf" else "weighted",
    )

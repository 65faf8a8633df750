"""Checks of the queries that a search is given."""

from collections.abc import Sequence, Sized

import torch

from colbertz.errors import UserError, check_type
from colbertz.ragged import Ragged


def checked_queries(queries: Ragged, dim: int, device: torch.device | str = "cpu") -> Ragged:
    """The queries in float32 on `device`.

    Args:
        queries: (num_tokens, E) embeddings of any floating point type.
        dim: E of the index.
        device: where the search runs.

    Raises:
        UserError: for queries of another dimension, without tokens, or with NaN or infinite values.
        TypeError: if they are not a Ragged.
    """
    if not isinstance(queries, Ragged):
        raise TypeError(f"queries must be a Ragged of embeddings, got {type(queries).__name__}")
    shape = tuple(queries.values.shape)
    if len(shape) != 2 or shape[1] != dim:
        raise UserError(f"queries of shape {shape} do not fit an index of dimension {dim}")
    queries = Ragged(queries.values.detach().to(device, torch.float32), queries.offsets.to(device))
    lengths = queries.lengths
    if len(queries) and not int(lengths.min()):
        raise UserError(f"query {int(lengths.argmin())} has no tokens")
    if not bool(queries.values.isfinite().all()):
        raise UserError("the queries' embeddings hold NaN or infinite values; look for NaN weights in the model")
    return queries


def check_texts(texts: Sequence[str]) -> None:
    """Check the texts of queries.

    Raises:
        UserError: for an empty text, which has nothing to search for.
        TypeError: for one string in place of a list of queries, and for what is no string in it.
    """
    if isinstance(texts, str) or not isinstance(texts, Sized):
        found = "the string " * isinstance(texts, str)
        raise TypeError(f"the texts of queries must be a list of strings, got {found}{texts!r:.80}")
    for position, text in enumerate(texts):
        check_type(f"the text of query {position}", text, str, "a string")
        if not text.strip():
            number = f" {position}" if len(texts) > 1 else ""
            raise UserError(f"query{number} is empty; give it words, or leave it out")

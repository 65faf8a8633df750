"""Token pooling: fewer embeddings for each document, each of them for several similar tokens.

After Clavié et al. 2024 (arXiv 2409.14683), who cluster the tokens of a document by Ward's method and keep the mean of
each cluster. Here means are weighted and have the length of a token, and the tokens that every document has ([CLS], the
prefix, the prompt, [SEP]) can be kept apart: almost half of the tokens of a query match these. docs/operate.md says
what pooling costs in quality, and docs/log.md what else was tried.

Legend: E embedding dim.
"""

from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from colbertz.errors import UserError
from colbertz.ragged import Ragged

# "ward": Ward's clusters of the directions of the tokens, a weighted mean of each, and the length of a token.
# "pylate": PyLate's: Ward's formula on cosine distances, as if they were Euclidean; plain means, which are shorter than
# their tokens. `ColBERT.encode` keeps by default the tokens that every document has, with "pylate" only the first.
Pooling = Literal["ward", "pylate"]
# A token weighs the square of its cosine distance from the document's mean: the words that tell a document from others
# are far from it, and in a plain mean with one that is not, such a word would lose half of its match. SQuAD and CoSQA
# lose less with the square than with the distance or with equal weights, arXiv the same within the noise; higher powers
# change nothing (docs/log.md).
_WEIGHT_POWER = 2
# A token that is at the mean still weighs something.
_LEAST_DISTANCE = 1e-3
# A mean direction shorter than this, of tokens that point in opposite directions, is only rounding.
_LEAST_LENGTH = 1e-4

Array = npt.NDArray[Any]


def check_pooling(pool_factor: object, pooling: object = "ward", *protected_tokens: object) -> None:
    """Check the settings of pooling where they come in, before anything is encoded.

    Raises:
        UserError: if `pool_factor` is not an integer of at least 1, `pooling` not the name of a method, or one of
            `protected_tokens` neither None nor an integer of at least 0.
    """
    protected = [("protected_tokens", value, 0) for value in protected_tokens if value is not None]
    for name, value, least in [("pool_factor", pool_factor, 1), *protected]:
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
            raise UserError(f"{name} must be an integer of at least {least}, got {value!r}")
    if pooling not in get_args(Pooling):
        raise UserError(f"pooling must be {' or '.join(get_args(Pooling))}, got {pooling!r}")


def pool_tokens(
    documents: Ragged,
    pool_factor: int,
    protected_tokens: int = 1,
    protected_at_end: int = 0,
    pooling: Pooling = "ward",
) -> Ragged:
    """Cluster the tokens of each document and keep one embedding for each cluster.

    Args:
        documents: (num_tokens, E) embeddings, normally of unit length.
        pool_factor: keep one embedding for this many tokens; 1 keeps all.
        protected_tokens: this many tokens at the start of each document are kept as they are.
        protected_at_end: the same at the end of each document; they come after the protected ones of the start.
        pooling: the method.

    Returns:
        The pooled documents on the CPU, of the given dtype. By "ward", unit vectors become unit vectors, so an index,
        its `exact=True` and `maxsim` of the result agree. By "pylate", means are shorter.

    Raises:
        UserError: as `check_pooling`.
    """
    check_pooling(pool_factor, pooling, protected_tokens, protected_at_end)
    documents = documents.cpu()
    if pool_factor == 1 or not len(documents):
        return documents
    # NumPy: PyTorch's operators would start threads for each of many small products.
    values, offsets = documents.values.detach().float().numpy(), documents.offsets.tolist()
    pooled = [
        _pool(values[start:end], pool_factor, protected_tokens, protected_at_end, pooling)
        for start, end in pairwise(offsets)
    ]
    rows = torch.from_numpy(np.concatenate(pooled)).to(documents.dtype)
    return Ragged.from_lengths(rows, [len(document) for document in pooled])


def describe_pooling(pool_factor: int, pooling: Pooling = "ward") -> str:
    """The pooling as an index build remembers it: a build that another method began must not be continued."""
    if pool_factor == 1:
        return "pool_factor 1"
    method = "ward, weighted means of unit length" if pooling == "ward" else pooling
    return f"pool_factor {pool_factor} ({method})"


def _pool(tokens: Array, pool_factor: int, protected: int, protected_at_end: int, pooling: Pooling) -> Array:
    """Pool one document of (num_tokens, E) float32 embeddings."""
    end = max(len(tokens) - protected_at_end, protected)
    rest = tokens[protected:end]
    num_clusters = max(len(rest) // pool_factor, 1)
    if num_clusters >= len(rest):
        return tokens
    if pooling == "pylate":
        members = _clusters(1 - rest @ rest.T, num_clusters)
        means = members @ rest / members.sum(1, keepdims=True)
    else:
        means = _weighted_means(rest, num_clusters)
    return np.concatenate([tokens[:protected], means, tokens[end:]])


def _weighted_means(tokens: Array, num_clusters: int) -> Array:
    """The method "ward": at most `num_clusters` embeddings for (num_tokens, E) tokens."""
    lengths = np.linalg.norm(tokens, axis=1, keepdims=True)
    directions = _unit(tokens)
    # The distance of two unit vectors, by their product: rounding must not make a square negative.
    members = _clusters(np.sqrt((2 - 2 * directions @ directions.T).clip(min=0)), num_clusters)
    distances = (1 - directions @ _unit(directions.mean(0))).clip(min=_LEAST_DISTANCE)
    shares = members * distances**_WEIGHT_POWER
    shares /= shares.sum(1, keepdims=True)
    means = shares @ directions
    cancelled = np.linalg.norm(means, axis=1) < _LEAST_LENGTH
    means[cancelled] = directions[shares[cancelled].argmax(1)]
    return _unit(means) * (shares @ lengths)


def _clusters(distances: Array, num_clusters: int) -> Array:
    """Ward's clusters of tokens with (num_tokens, num_tokens) distances.

    Returns:
        (at most num_clusters, num_tokens) float32: 1 where a token belongs to a cluster. Ties can leave fewer clusters.
    """
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    # Rounding gives equal tokens a cosine distance slightly below zero, which linkage refuses.
    tree = hierarchy.linkage(squareform(distances.clip(min=0), checks=False), method="ward")
    labels = hierarchy.fcluster(tree, t=num_clusters, criterion="maxclust")
    return (np.unique(labels)[:, None] == labels).astype(np.float32)


def _unit(rows: Array) -> Array:
    """The rows with length 1; rows of zeros stay zero."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    unit: Array = rows / np.where(lengths > 0, lengths, 1)
    return unit

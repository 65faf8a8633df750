"""Token pooling: fewer embeddings for each document, each of them for several similar tokens.

After Clavié et al. 2024 (arXiv 2409.14683), who cluster the tokens of a document by Ward's method and keep the mean of
each cluster. Here means are weighted and about as long as a token, and the tokens that every document has ([CLS], the
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

# "ward": Ward's clusters of the directions of the tokens, a weighted mean of each, a length slightly above a token's.
# "pylate": PyLate's: Ward's formula on cosine distances, as if they were Euclidean; plain means, which are shorter than
# their tokens. `ColBERT.encode` keeps by default the tokens that every document has, with "pylate" only the first.
Pooling = Literal["ward", "pylate"]
# A token weighs the square of its cosine distance from the document's mean: the words that tell a document from others
# are far from it, and in a plain mean with one that is not, such a word would lose half of its match. SQuAD and CoSQA
# lose less with the square than with the distance or with equal weights, arXiv the same within the noise; higher powers
# change nothing (docs/log.md).
_WEIGHT_POWER = 2
# Least distance from the document's mean: a token that is at the mean still weighs something.
_LEAST_DISTANCE = 1e-3
# What averaging loses is returned in two ways. The mean of a cluster is nearer to the document's mean than its tokens
# are, so it is moved away until its distance is theirs, by this factor at most.
_MOST_STRETCH = 3
# And a query that matches one token of a cluster matches their mean less, by about the mean cosine of the tokens to it.
# The mean gets the length cosine^(-1 / pool_factor), or documents whose tokens differ much would be ranked too low. The
# whole, cosine^-1, would rank them too high (docs/log.md).
# A mean direction shorter than this, of tokens that point in opposite directions, stands for none of them.
_LEAST_LENGTH = 0.25
# Tokens that are clustered together: the time of clustering rises with the square. Longer documents are cut into parts
# of neighbours, which share the number of clusters.
_MOST_TOKENS = 1024

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
        The pooled documents on the CPU, of the given dtype. By "ward", a mean of unit vectors is slightly longer than
        they are, or as long if they are equal; by "pylate" it is shorter. An index keeps these lengths.

    Raises:
        UserError: as `check_pooling`.
    """
    check_pooling(pool_factor, pooling, protected_tokens, protected_at_end)
    documents = documents.cpu()
    if pool_factor == 1 or not len(documents):
        return documents
    # NumPy: PyTorch's operators would start threads for each of many small products.
    values, offsets = documents.values.detach().float().numpy(), documents.offsets.tolist()
    factor = int(pool_factor)  # with an integer of NumPy, powers of float32 would be float64
    pooled = [
        _pool(values[start:end], factor, protected_tokens, protected_at_end, pooling)
        for start, end in pairwise(offsets)
    ]
    rows = torch.from_numpy(np.concatenate(pooled)).to(documents.dtype)
    return Ragged.from_lengths(rows, [len(document) for document in pooled])


def describe_pooling(pool_factor: int, pooling: Pooling = "ward") -> str:
    """The pooling as an index build remembers it: a build that another method began must not be continued."""
    if pool_factor == 1:
        return "pool_factor 1"
    method = "ward, weighted means longer than tokens" if pooling == "ward" else pooling
    return f"pool_factor {pool_factor} ({method})"


def _pool(tokens: Array, pool_factor: int, protected: int, protected_at_end: int, pooling: Pooling) -> Array:
    """Pool one document of (num_tokens, E) float32 embeddings."""
    end = max(len(tokens) - protected_at_end, protected)
    rest = tokens[protected:end]
    if len(rest) <= max(len(rest) // pool_factor, 1):
        return tokens
    means = (_plain_means if pooling == "pylate" else _weighted_means)(rest, pool_factor)
    return np.concatenate([tokens[:protected], means, tokens[end:]])


def _plain_means(tokens: Array, pool_factor: int) -> Array:
    """The method "pylate" for (num_tokens, E) tokens."""
    members = _clusters(1 - tokens @ tokens.T, max(len(tokens) // pool_factor, 1))
    means: Array = members @ tokens / members.sum(1, keepdims=True)
    return means


def _weighted_means(tokens: Array, pool_factor: int) -> Array:
    """The method "ward" for (num_tokens, E) tokens."""
    lengths = np.linalg.norm(tokens, axis=1, keepdims=True)
    directions = _unit(tokens)
    center = directions.mean(0)
    distances = (1 - directions @ _unit(center)).clip(min=_LEAST_DISTANCE)
    weights = distances**_WEIGHT_POWER
    # Each part has at least `pool_factor` tokens, and all parts together get one cluster for `pool_factor` tokens.
    num_parts = -(-len(tokens) // max(_MOST_TOKENS, 2 * pool_factor))
    bounds = [len(tokens) * part // num_parts for part in range(num_parts + 1)]
    means = []
    for start, end in pairwise(bounds):
        part, num_clusters = slice(start, end), max(end // pool_factor - start // pool_factor, 1)
        shares = _clusters(_distances(directions[part]), num_clusters) * weights[part]
        shares /= shares.sum(1, keepdims=True)
        means.append(_means(directions[part], shares, center, pool_factor) * (shares @ lengths[part]))
    return np.concatenate(means)


def _means(directions: Array, shares: Array, center: Array, pool_factor: int) -> Array:
    """Means of (num_tokens, E) unit vectors by (num_clusters, num_tokens) shares, corrected for averaging."""
    deviations = directions - center
    means = shares @ deviations
    shorter = np.linalg.norm(means, axis=1, keepdims=True).clip(min=_LEAST_DISTANCE)
    stretch = (shares @ np.linalg.norm(deviations, axis=1, keepdims=True) / shorter).clip(1, _MOST_STRETCH)
    cosines = np.linalg.norm(center + means, axis=1, keepdims=True)
    means = center + means * stretch
    cancelled = np.minimum(cosines[:, 0], np.linalg.norm(means, axis=1)) < _LEAST_LENGTH
    means[cancelled] = directions[shares[cancelled].argmax(1)]
    cosines[cancelled] = 1
    return _unit(means) * cosines ** (-1 / pool_factor)


def _distances(directions: Array) -> Array:
    """The Euclidean distances of (num_tokens, E) unit vectors, (num_tokens, num_tokens)."""
    # By their products: rounding must not make a square negative.
    distances: Array = np.sqrt((2 - 2 * directions @ directions.T).clip(min=0))
    return distances


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

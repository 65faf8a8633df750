"""Hierarchical token pooling: fewer, averaged embeddings for each document (Clavié et al. 2024, arXiv 2409.14683).

Legend: E embedding dim.
"""

import numpy as np
import torch
from torch import Tensor

from colbertz.errors import UserError
from colbertz.ragged import Ragged


def pool_tokens(documents: Ragged, pool_factor: int, protected_tokens: int = 1) -> Ragged:
    """Cluster the tokens of each document and keep the mean of each cluster, as PyLate does.

    Args:
        documents: (num_tokens, E) L2-normalised embeddings.
        pool_factor: keep one embedding for this many tokens; 1 keeps all.
        protected_tokens: this many tokens at the start of each document are kept as they are.

    Returns:
        The pooled documents on the CPU, of the given dtype; means are not normalised again.

    Raises:
        UserError: if `pool_factor` is below 1 or `protected_tokens` below 0.
    """
    if pool_factor < 1 or protected_tokens < 0:
        raise UserError(
            f"pool_factor must be at least 1 and protected_tokens at least 0, got {pool_factor}, {protected_tokens}"
        )
    documents = documents.cpu()
    if pool_factor == 1 or not len(documents):
        return documents
    return Ragged.from_list([_pool(tokens, pool_factor, protected_tokens) for tokens in documents])


def _pool(tokens: Tensor, pool_factor: int, protected_tokens: int) -> Tensor:
    """Pool one document of (num_tokens, E) embeddings, by Ward's clustering of cosine distances."""
    from scipy.cluster import hierarchy

    kept, rest = tokens[:protected_tokens], tokens[protected_tokens:]
    num_clusters = max(len(rest) // pool_factor, 1)
    if num_clusters >= len(rest):
        return tokens
    # Rounding gives equal tokens a distance slightly below zero, which linkage refuses.
    distance = (1 - (rest.float() @ rest.float().T).numpy()).clip(min=0)
    tree = hierarchy.linkage(distance[np.triu_indices(len(rest), k=1)], method="ward")
    labels = torch.from_numpy(hierarchy.fcluster(tree, t=num_clusters, criterion="maxclust").astype(np.int64)) - 1
    sums = torch.zeros(num_clusters, tokens.shape[1]).index_add_(0, labels, rest.float())
    counts = labels.bincount(minlength=num_clusters)
    # Ties can leave fewer than `num_clusters` clusters.
    return torch.cat([kept, (sums / counts[:, None])[counts > 0].to(tokens.dtype)])

"""The recall that coding costs: exact search over decoded vectors against exact search over the embeddings.

Uses the embeddings and indexes that search_cpu.py has written to .cache/benchmarks. Compares fast-plaid's index; its
centroids and codes with buckets of least squared error instead of quantiles; our index; and our index with every token
assigned to the nearest of all centroids instead of in two levels. Writes results/codec.json.
"""

from collections.abc import Iterator
from typing import Any

import common
import numpy as np
import torch
import torch.nn.functional as F
from search_cpu import CACHE, K, exact, load

from colbertz import Ragged
from colbertz.index.interop import open_any
from colbertz.index.store.codec import Codec
from colbertz.index.store.scalar import best_buckets

NUM_QUERIES = 200


def nearest_of_all(codec: Codec, tokens: torch.Tensor) -> torch.Tensor:
    """(num_tokens,) the nearest of all centroids of each token."""
    return torch.cat([(part @ codec.centroids.T).argmax(1) for part in tokens.split(4096)])


def decoded(
    tokens: torch.Tensor, centroids: torch.Tensor, cutoffs: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """(num_tokens, dim) tokens that were coded with these centroids and buckets and decoded again."""
    parts = zip(tokens.split(100_000), centroids.split(100_000))
    return torch.cat([F.normalize(c + weights[torch.bucketize(x - c, cutoffs)], dim=1) for x, c in parts])


def variants(tokens: torch.Tensor, num_documents: int) -> Iterator[tuple[str, torch.Tensor]]:
    """The name and the decoded tokens of each codec."""
    for system in ("fast-plaid", "colbertz"):
        snapshot = open_any(CACHE / f"index-{system}-{num_documents}")
        codec, [segment] = snapshot.codec, snapshot.segments
        centroids = codec.centroids[torch.from_numpy(segment.arrays.codes.astype(np.int64))]
        yield system, decoded(tokens, centroids, codec.quantiser.cutoffs, codec.quantiser.weights)
        if system == "fast-plaid":
            sample = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))[:50_000]
            buckets = best_buckets((tokens[sample] - centroids[sample]).numpy().reshape(-1), 1 << codec.coding.nbits)
            cutoffs, weights = (torch.from_numpy(part.astype(np.float32)) for part in buckets)
            yield "fast-plaid's centroids, our buckets", decoded(tokens, centroids, cutoffs, weights)
        else:
            centroids = codec.centroids[nearest_of_all(codec, tokens)]
            yield (
                "colbertz, all centroids compared",
                decoded(tokens, centroids, codec.quantiser.cutoffs, codec.quantiser.weights),
            )


def main() -> None:
    documents, queries = load()
    queries = queries[:NUM_QUERIES]
    about = common.machine() | {"documents": len(documents), "queries": NUM_QUERIES}
    truth = exact(queries, documents)
    tokens = documents.values.float()
    rows: list[dict[str, Any]] = []
    for name, vectors in variants(tokens, len(documents)):
        hits = exact(queries, Ragged(vectors, documents.offsets))
        error = (tokens - vectors).norm(dim=1)
        rows.append(
            {
                "codec": name,
                "recall@10": float(np.mean([len(a & b) / K for a, b in zip(hits, truth)])),
                "mean error": float(error.mean()),
                "99 % error": float(np.quantile(error.numpy(), 0.99)),
            }
        )
    common.report("codec", about, rows)


if __name__ == "__main__":
    main()

"""k-means over token embeddings on the CPU: our two-level k-means against that of faiss.

Needs faiss-cpu and the data of search_cpu.py. Both get the same tokens, make the same number of centroids, and take
turns. faiss makes four iterations over all tokens, as in fast-plaid, and unit vectors. The quality of the centroids is
the mean similarity of tokens to the nearest of all centroids. Writes results/kmeans_cpu.json.
"""

from functools import partial

import common
import faiss
import torch
from search_cpu import load

from colbertz.index.store import kmeans

TOKENS = 262_144
CENTROIDS = 4096


def by_faiss(tokens: torch.Tensor) -> torch.Tensor:
    """(CENTROIDS, dim) centroids of faiss."""
    trained = faiss.Kmeans(tokens.shape[1], CENTROIDS, niter=4, spherical=True, seed=0)
    trained.train(tokens.numpy())
    return torch.from_numpy(trained.centroids)


def main() -> None:
    about = common.machine("faiss-cpu") | {"tokens": TOKENS, "centroids": CENTROIDS}
    tokens = load()[0].values
    sample = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))[:TOKENS]
    tokens = tokens[sample].float()
    contenders = {"faiss": partial(by_faiss, tokens), "colbertz": partial(kmeans.train, tokens, CENTROIDS, 0)}
    seconds = common.seconds(contenders, repeats=5)
    rows = []
    for name, train in contenders.items():
        centroids = train()
        best = torch.cat([(part @ centroids.T).amax(1) for part in tokens.split(8192)])
        rows.append({"k-means": name, "s": seconds[name], "mean similarity": float(best.mean())})
    common.report("kmeans_cpu", about, rows)


if __name__ == "__main__":
    main()

"""k-means over token embeddings: ours in two levels beside faiss, on the CPU. Needs faiss-cpu and search_cpu.py's data.

Both get the same tokens and make as many centroids; faiss runs four rounds over all of them, as fast-plaid does, and
takes unit vectors. The mean similarity of tokens to their nearest centroid says how good the centroids are; it is
measured by comparing with all of them. Writes results/kmeans_cpu.json.
"""

import time

import common
import faiss
import numpy as np
import torch
from search_cpu import load

from colbertz.index import kmeans

TOKENS, CENTROIDS = 262_144, 4096


def main() -> None:
    tokens = load()[0].values
    chosen = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))[:TOKENS]
    tokens = tokens[chosen].float()
    rows = []
    kmeans.train(tokens[:20_000], 2048, 0)  # compiles
    for name in ("faiss", "colbertz"):
        start = time.perf_counter()
        if name == "faiss":
            found = faiss.Kmeans(tokens.shape[1], CENTROIDS, niter=4, spherical=True, seed=0)
            found.train(tokens.numpy())
            centroids = torch.from_numpy(np.asarray(found.centroids))
        else:
            centroids = kmeans.train(tokens, CENTROIDS, 0)
        seconds = time.perf_counter() - start
        best = torch.cat([(part @ centroids.T).amax(1) for part in tokens.split(8192)])
        rows.append({"k-means": name, "s": seconds, "mean similarity": float(best.mean())})
    common.report("kmeans_cpu", common.machine("faiss-cpu") | {"tokens": TOKENS, "centroids": CENTROIDS}, rows)


if __name__ == "__main__":
    main()

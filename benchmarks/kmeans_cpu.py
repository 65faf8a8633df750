"""k-means over token embeddings: ours in two levels beside faiss, on the CPU. Needs faiss-cpu and search_cpu.py's data.

Both get the same tokens and make as many centroids, taking turns; faiss runs four rounds over all of them, as
fast-plaid does, and makes unit vectors. The mean similarity of tokens to their nearest centroid says how good the
centroids are; it is measured by comparing with all of them. Writes results/kmeans_cpu.json.
"""

from functools import partial

import common
import faiss
import torch
from search_cpu import load

from colbertz.index.store import kmeans

TOKENS, CENTROIDS = 262_144, 4096


def by_faiss(tokens: torch.Tensor) -> torch.Tensor:
    found = faiss.Kmeans(tokens.shape[1], CENTROIDS, niter=4, spherical=True, seed=0)
    found.train(tokens.numpy())
    return torch.from_numpy(found.centroids)


def main() -> None:
    about = common.machine("faiss-cpu") | {"tokens": TOKENS, "centroids": CENTROIDS}
    tokens = load()[0].values
    chosen = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))[:TOKENS]
    tokens = tokens[chosen].float()
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

"""fast-plaid's part of recall.py, in an environment of its own: `pip install torch==2.11.0 fast-plaid==1.7.0.2110`.

    python benchmarks/recall_fast_plaid.py EMBEDDINGS.npz INDEX NBITS K

Builds an index and searches it with the default settings, one query at a time. Prints JSON: for each query the numbers
of the documents found, and the median milliseconds.
"""

import json
import statistics
import sys
import time

import numpy as np
import torch
from fast_plaid import search


def main(embeddings: str, path: str, nbits: int, k: int) -> None:
    arrays = {name: torch.from_numpy(array) for name, array in np.load(embeddings).items()}
    documents = list(arrays["documents"].split(arrays["doclens"].tolist()))
    queries = list(arrays["queries"].split(arrays["query_lengths"].tolist()))
    index = search.FastPlaid(path, device="cpu")
    index.create(documents, nbits=nbits, start_from_scratch=0)
    hits, durations = [], []
    for query in queries[:1] + queries:
        start = time.perf_counter()
        [ranking] = index.search([query], top_k=k, show_progress=False)
        durations.append(time.perf_counter() - start)
        hits.append([doc_idx for doc_idx, _ in ranking])
    print(json.dumps({"hits": hits[1:], "ms": statistics.median(durations[1:]) * 1e3}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

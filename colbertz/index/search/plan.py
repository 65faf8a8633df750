"""How many documents go through each stage of a search; the CPU and GPUs share it."""

import math
from dataclasses import dataclass

from colbertz.index.search.options import SearchOptions
from colbertz.index.store.snapshot import Snapshot

# Documents scored exactly on a GPU, or anywhere if no more are allowed: k, a quarter more, and these.
EXACT_BEYOND_K = 12
# Documents scored with residuals at a time.
WAVE = 128
# Under a filter that leaves less than half of the documents: if at most this many times `n_full_scores` are left, all
# of them are scored by their centroids and no cell is probed.
MAX_WITHOUT_PROBES = 16
# Under a filter, at most this many times as many cells are probed.
MAX_WIDENING = 8


@dataclass(frozen=True)
class Limits:
    """Sizes that bound a search's memory or decide between its methods. Tests set small ones.

    Attributes:
        all_exact: if no more documents than this may be found, all are scored exactly.
        longest_query: tokens; a longer query is scored by brute force, because its table of centroid scores would no
            longer fit a cache, or memory.
        block_tokens: document tokens that brute force decodes at a time: 64 MB of float32 at 128 dimensions.
        query_tokens: query tokens that brute force scores at a time.
        once_tokens: document tokens that PyTorch's operators score in less time than the compiled kernels take to load.
        table_bytes: bytes of a GPU batch's table of centroid scores, and of its table of first scores, at most.
        budget_tokens: counts of documents are meant for documents of this many tokens. Where the mean is lower, so
            many more go through each stage that the number of tokens is the same.
    """

    all_exact: int = 512
    longest_query: int = 1024
    block_tokens: int = 131_072
    query_tokens: int = 16_384
    once_tokens: int = 131_072
    table_bytes: int = 1 << 28
    budget_tokens: int = 128


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Effort:
    """How much a search looks at.

    Attributes:
        n_ivf_probe: cells probed for each query token.
        n_full_scores: documents that get the MaxSim of their centroids, at least 8 · k, and more if they are short. As
            many of them get residuals too as are needed, on a GPU the best quarter.
    """

    n_ivf_probe: int
    n_full_scores: int


@dataclass(frozen=True)
class Plan:
    """How many documents go through each stage of a search, of all that may be found.

    Attributes:
        n_ivf_probe: cells probed for each query token; 0 if every document is a candidate without probing.
        n_full_scores: documents scored by their centroids.
        n_residual: documents scored with residuals on a GPU, where all sizes are fixed in advance.
        n_exact: documents scored exactly on a GPU.
        wave: documents scored with residuals at a time on a CPU, which stops by the scores (refine.py).
    """

    n_ivf_probe: int
    n_full_scores: int
    n_residual: int
    n_exact: int
    wave: int


def effort_for(k: int, options: SearchOptions, num_cells: int) -> Effort:
    """What the options ask for, or what suits `k` where they leave the choice."""
    n_ivf_probe = options.n_ivf_probe or (8 if k <= 20 else 16 if k <= 200 else 32)
    return Effort(min(num_cells, n_ivf_probe), options.n_full_scores or max(2048, 60 * k))


def plan_for(
    snapshot: Snapshot, effort: Effort, k: int, num_allowed: int, limits: Limits = DEFAULT_LIMITS
) -> Plan | None:
    """What `effort` means for `k` hits among `num_allowed` documents of an index; None for brute force."""
    num_centroids, num_documents = len(snapshot.codec.centroids), int(snapshot.first_doc_idx[-1])
    n_exact = k + k // 4 + EXACT_BEYOND_K
    if effort.n_ivf_probe == num_centroids and effort.n_full_scores >= num_allowed:
        return None
    if num_allowed <= max(limits.all_exact, n_exact):
        return Plan(0, num_allowed, num_allowed, num_allowed, num_allowed)
    # Time goes by tokens: of short texts, more documents go through each stage.
    more = max(1.0, limits.budget_tokens * num_documents / snapshot.manifest.num_tokens)
    n_full_scores = int(max(effort.n_full_scores, 8 * k) * more)
    # A filter leaves fewer documents in each list; probing more cells makes up for it.
    share = num_allowed / num_documents
    n_ivf_probe = min(math.ceil(effort.n_ivf_probe * min(1 / share, MAX_WIDENING)), num_centroids)
    all_pass = num_allowed <= n_full_scores or (share < 0.5 and num_allowed <= MAX_WITHOUT_PROBES * n_full_scores)
    if n_ivf_probe == num_centroids or all_pass:
        n_ivf_probe = 0
    return Plan(n_ivf_probe, n_full_scores, max(n_full_scores // 4, 2 * k), n_exact, int(WAVE * more))

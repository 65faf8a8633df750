"""How many documents go through each stage of a search; the CPU and GPUs share it."""

import math
from dataclasses import dataclass

from colbertz.index.search.options import SearchOptions
from colbertz.index.store.snapshot import Snapshot

# Expected share of the best k that stages 4 and 5 each may miss.
TOLERANCE = 0.005
# Documents scored exactly first on a GPU, or anywhere if no more are allowed: k, a quarter more, and these.
EXACT_BEYOND_K = 12
# Documents scored with residuals first.
WAVE = 128
# Cells probed for each query token by a search with any effort.
BASE_PROBES = 8
# Queries of at most this many tokens probe as many cells for each token as searches of large k do: they name few cells.
SHORT_QUERY = 8
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
        base: documents that get the MaxSim of their centroids in a search with any effort; 8 · k if that is more.
        budget_tokens: counts of documents are meant for documents of this many tokens. Where the mean is lower, so
            many more go through each stage that the number of tokens is the same.
    """

    all_exact: int = 512
    longest_query: int = 1024
    block_tokens: int = 131_072
    query_tokens: int = 16_384
    once_tokens: int = 131_072
    table_bytes: int = 1 << 28
    base: int = 512
    budget_tokens: int = 128


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Effort:
    """How much a search looks at.

    Attributes:
        n_ivf_probe: cells probed for each query token.
        n_full_scores: documents that get the MaxSim of their centroids, and more if they are short. As many of them get
            residuals too as are needed.
    """

    n_ivf_probe: int
    n_full_scores: int


@dataclass(frozen=True)
class Plan:
    """How many documents go through each stage of a search, of all that may be found.

    Attributes:
        levels: numbers of cells probed for each query token, each twice the one before. Each level chooses
            `n_full_scores` candidates. The first is that of the base; without levels every document is in the base.
        n_base: documents of the base, the candidates that a search with any effort has.
        n_full_scores: candidates that each level chooses.
        all_pass: every document is a candidate, and the walk only chooses the base.
        n_exact: documents scored exactly first on a GPU; if there are no more, they skip the stages before.
        wave: documents scored with residuals first; how many follow depends on the scores (refine.py).
        by_centroids: False if every candidate gets residuals, without stage 3.
    """

    levels: tuple[int, ...]
    n_base: int
    n_full_scores: int
    all_pass: bool
    n_exact: int
    wave: int
    by_centroids: bool = True


def effort_for(k: int, options: SearchOptions, num_cells: int, num_tokens: int) -> Effort:
    """What the options ask for, or what suits `k` and a query of `num_tokens` tokens where they leave the choice."""
    n_ivf_probe = options.n_ivf_probe or (32 if k > 200 or num_tokens <= SHORT_QUERY else 16)
    return Effort(min(num_cells, n_ivf_probe), options.n_full_scores or max(2048, 60 * k))


def norms_matter(snapshot: Snapshot) -> bool:
    """Whether no stage may take centroids for tokens, because they do not tell which tokens are long.

    That is so if the norms of a document differ more from 1 than the cosines of tokens with their centroids do: by half
    the square of the length of a residual (docs/log.md).
    """
    deviation = max(info.norm_deviation for info in snapshot.manifest.segments)
    return deviation > snapshot.codec.cluster_threshold**2 / 2


def plan_for(
    snapshot: Snapshot, effort: Effort, k: int, num_allowed: int, limits: Limits = DEFAULT_LIMITS
) -> Plan | None:
    """What `effort` means for `k` hits among `num_allowed` documents of an index; None for brute force."""
    num_centroids, num_documents = len(snapshot.codec.centroids), int(snapshot.first_doc_idx[-1])
    n_exact = k + k // 4 + EXACT_BEYOND_K
    if effort.n_ivf_probe == num_centroids and effort.n_full_scores >= num_allowed:
        return None
    if num_allowed <= max(limits.all_exact, n_exact):
        return Plan((), num_allowed, num_allowed, True, num_allowed, num_allowed)
    if norms_matter(snapshot):
        return Plan((), num_allowed, num_allowed, True, n_exact, num_allowed, by_centroids=False)
    # Time goes by tokens: of short texts, more documents go through each stage.
    more = max(1.0, limits.budget_tokens * num_documents / snapshot.manifest.num_tokens)
    n_base = int(max(limits.base, 8 * k) * more)
    n_full_scores = max(n_base, int(effort.n_full_scores * more))
    # A filter leaves fewer documents in each list; probing more cells makes up for it.
    share = num_allowed / num_documents
    levels = [math.ceil(BASE_PROBES * min(1 / share, MAX_WIDENING))]
    while levels[-1] * BASE_PROBES < effort.n_ivf_probe * levels[0]:
        levels.append(2 * levels[-1])
    all_pass = num_allowed <= n_full_scores or (share < 0.5 and num_allowed <= MAX_WITHOUT_PROBES * n_full_scores)
    all_pass = all_pass or levels[-1] >= num_centroids
    if levels[0] >= num_centroids or n_base >= num_allowed:
        levels = []
    return Plan(
        tuple(levels[:1] if all_pass else levels),
        n_base,
        n_full_scores,
        all_pass,
        n_exact,
        int(WAVE * more),
    )

"""How many documents go through each stage of a search; the CPU and GPUs share it."""

import math
from dataclasses import dataclass

from colbertz.errors import UserError
from colbertz.index.search.options import SearchOptions
from colbertz.index.store.snapshot import Snapshot

# Documents scored exactly: k, a quarter more, and these. Approximate scores hardly ever put one of the best k farther
# down (docs/how-it-works.md).
EXACT_BEYOND_K = 12
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
        table_bytes: bytes of a GPU batch's table of centroid scores, and of its table of first scores, at most.
    """

    all_exact: int = 512
    longest_query: int = 1024
    block_tokens: int = 131_072
    query_tokens: int = 16_384
    table_bytes: int = 1 << 28


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Effort:
    """How much a search looks at.

    Attributes:
        n_ivf_probe: cells probed for each query token.
        n_full_scores: documents that get the MaxSim of their centroids, at least 8 · k; at most a quarter of them, or
            2 · k, get residuals too.
    """

    n_ivf_probe: int
    n_full_scores: int


@dataclass(frozen=True)
class Plan:
    """How many documents go through each stage of a search, of all that may be found.

    Attributes:
        n_ivf_probe: cells probed for each query token; 0 if every document is a candidate without probing.
        n_full_scores: documents scored by their centroids.
        n_residual: documents scored with residuals.
        n_exact: documents scored exactly.
    """

    n_ivf_probe: int
    n_full_scores: int
    n_residual: int
    n_exact: int


def effort_for(k: int, options: SearchOptions, num_cells: int) -> Effort:
    """What the options ask for, or what suits `k` where they leave the choice.

    Raises:
        UserError: if more cells are to be probed than the index has.
    """
    if options.n_ivf_probe is not None and options.n_ivf_probe > num_cells:
        raise UserError(f"n_ivf_probe is {options.n_ivf_probe}, but the index has only {num_cells} cells")
    n_ivf_probe = options.n_ivf_probe or min(num_cells, 8 if k <= 20 else 16 if k <= 200 else 32)
    return Effort(n_ivf_probe, options.n_full_scores or max(2048, 60 * k))


def plan_for(
    snapshot: Snapshot, effort: Effort, k: int, num_allowed: int, limits: Limits = DEFAULT_LIMITS
) -> Plan | None:
    """What `effort` means for `k` hits among `num_allowed` documents of an index; None for brute force."""
    num_centroids = len(snapshot.codec.centroids)
    n_exact = k + k // 4 + EXACT_BEYOND_K
    if effort.n_ivf_probe == num_centroids and effort.n_full_scores // 4 >= num_allowed:
        return None
    if num_allowed <= max(limits.all_exact, n_exact):
        return Plan(0, num_allowed, num_allowed, num_allowed)
    n_full_scores = max(effort.n_full_scores, 8 * k)
    # A filter leaves fewer documents in each list; probing more cells makes up for it.
    share = num_allowed / int(snapshot.first_doc_idx[-1])
    n_ivf_probe = min(math.ceil(effort.n_ivf_probe * min(1 / share, MAX_WIDENING)), num_centroids)
    if n_ivf_probe == num_centroids or (share < 0.5 and num_allowed <= MAX_WITHOUT_PROBES * n_full_scores):
        n_ivf_probe = 0
    return Plan(n_ivf_probe, n_full_scores, max(n_full_scores // 4, 2 * k), n_exact)

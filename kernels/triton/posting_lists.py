"""A first score for the documents in the probed cells' lists, on the GPU, in Triton.

For each query token, a document counts with the best of the probed cells that hold it. A program walks one list. Before
it adds, it looks each document up in the lists of the better cells of the same token, by binary search: whoever is
there has been counted. So all lists are walked at the same time, and the only thing shared is a sum of integers, which
is the same in whatever order it is made.

Legend: B queries, A documents.
"""

import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 128


@triton.jit
def walk_kernel(  # type: ignore[no-untyped-def]
    cells,  # (query tokens, n_ivf_probe) int32, best first
    gains,  # (query tokens, n_ivf_probe) int32: what a document in the cell's list gains, falling
    query_of_token,  # (query tokens,) int32
    lists,  # (postings,) int32: the documents of cell 0, of cell 1, …, each list sorted
    list_offsets,  # (cells + 1,) int64
    gained,  # (B, A) int32 in (zeros) and out
    num_documents,
    n_ivf_probe,
    BLOCK: tl.constexpr,
):
    token, probe = tl.program_id(0) // n_ivf_probe, tl.program_id(0) % n_ivf_probe
    gain = tl.load(gains + token * n_ivf_probe + probe)
    if gain > 0:
        cell = tl.load(cells + token * n_ivf_probe + probe)
        start, end = tl.load(list_offsets + cell), tl.load(list_offsets + cell + 1)
        row = gained + tl.load(query_of_token + token).to(tl.int64) * num_documents
        for some in range(start, end, BLOCK):
            at = some + tl.arange(0, BLOCK)
            documents = tl.load(lists + tl.minimum(at, end - 1))
            counts = at < end
            for earlier in range(probe):
                better = tl.load(cells + token * n_ivf_probe + earlier)
                first, last = tl.load(list_offsets + better), tl.load(list_offsets + better + 1)
                # The place of the last element that is not larger, by halves; all lanes take the same steps.
                place, rest = tl.zeros([BLOCK], tl.int64) + first, last - first
                while rest > 1:
                    half = rest // 2
                    place = tl.where(tl.load(lists + place + half) <= documents, place + half, place)
                    rest -= half
                if first < last:
                    counts = counts & (tl.load(lists + place) != documents)
            tl.atomic_add(row + documents, gain, mask=counts, sem="relaxed")


def walk_lists(
    cells: Tensor, gains: Tensor, query_of_token: Tensor, lists: Tensor, list_offsets: Tensor, gained: Tensor
) -> None:
    """Add up what documents gain by the probed cells that hold them.

    Args:
        cells: (query tokens, n_ivf_probe) int32, the probed cells of each token, best first.
        gains: likewise, int32: what a cell is worth, falling; 0 for nothing.
        query_of_token: (query tokens,) int32.
        lists: (postings,) int32, each cell's documents, sorted.
        list_offsets: (cells + 1,) int64.
        gained: (B, A) int32, zeros; the sums are added to it.
    """
    walk_kernel[(cells.numel(),)](
        cells, gains, query_of_token, lists, list_offsets, gained, gained.shape[1], cells.shape[1], BLOCK=_BLOCK
    )

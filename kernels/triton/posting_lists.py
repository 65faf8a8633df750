"""A first score for the documents in the probed cells' lists, on the GPU, in Triton.

For each query token, a document counts with the best of the probed cells that hold it. A program reads one list. Before
it adds a document's gain, it looks the document up in the lists of the better cells of the same token, by binary
search: a document that is in one of these is counted there. So all lists are read at the same time, and programs share
only sums of integers, which do not depend on the order of addition.

Legend: B queries, A documents.
"""

import triton
import triton.language as tl
from torch import Tensor

from ..arrays import PostingLists, Probes

# Documents of a list that a program handles at a time.
_BLOCK = 128


@triton.jit
def walk_kernel(  # type: ignore[no-untyped-def]
    cells,  # (query tokens, n_ivf_probe) int32, best first
    gains,  # (query tokens, n_ivf_probe) int32: what a document in the cell's list gains, descending
    query_of_token,  # (query tokens,) int32
    lists,  # (postings,) int32: the documents of cell 0, of cell 1, …, each list ascending
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
        for first_posting in range(start, end, BLOCK):
            postings = first_posting + tl.arange(0, BLOCK)
            documents = tl.load(lists + tl.minimum(postings, end - 1))
            counts = postings < end
            for earlier in range(probe):
                better = tl.load(cells + token * n_ivf_probe + earlier)
                first, last = tl.load(list_offsets + better), tl.load(list_offsets + better + 1)
                # Binary search for the last element that is not larger; all lanes take the same number of steps.
                place, rest = tl.zeros([BLOCK], tl.int64) + first, last - first
                while rest > 1:
                    half = rest // 2
                    place = tl.where(tl.load(lists + place + half) <= documents, place + half, place)
                    rest -= half
                if first < last:
                    counts = counts & (tl.load(lists + place) != documents)
            tl.atomic_add(row + documents, gain, mask=counts, sem="relaxed")


def walk_lists(probes: Probes, query_of_token: Tensor, lists: PostingLists, gained: Tensor) -> None:
    """Add up what documents gain from the probed cells that hold them.

    Args:
        probes: the probed cells of each query token.
        query_of_token: (query tokens,) int32.
        lists: the documents of each cell.
        gained: (B, A) int32, zeros; the sums are added to it.
    """
    walk_kernel[(probes.cells.numel(),)](
        probes.cells,
        probes.gains,
        query_of_token,
        lists.doc_idx,
        lists.offsets,
        gained,
        gained.shape[1],
        probes.cells.shape[1],
        BLOCK=_BLOCK,
    )

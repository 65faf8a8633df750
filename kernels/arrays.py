"""The arrays that launchers of kernels take, as named tuples.

`doc_idx` is a document's place among the documents given, from 0.

Legend: B queries, A documents, P pairs of a query and a document, S query tokens, E embedding dim.
"""

from typing import NamedTuple

from torch import Tensor


class Texts(NamedTuple):
    """Embeddings of several texts, one text after the other: text i is `values[offsets[i]:offsets[i + 1]]`.

    Attributes:
        values: (num_tokens, E).
        offsets: (num_texts + 1,) int64.
    """

    values: Tensor
    offsets: Tensor

    @property
    def num_texts(self) -> int:
        return len(self.offsets) - 1


class Longest(NamedTuple):
    """The number of tokens of the longest query and of the longest document."""

    query: int
    document: int


class Candidates(NamedTuple):
    """The documents that each query is paired with: query b with `doc_idx[offsets[b]:offsets[b + 1]]`.

    Attributes:
        doc_idx: (P,) int64; a document may be in several lists, and several times in one.
        offsets: (B + 1,) int64.
    """

    doc_idx: Tensor
    offsets: Tensor


class Pairs(NamedTuple):
    """Pairs of a query and a document.

    Attributes:
        doc_idx: (P,) int64.
        query_idx: (P,) int32.
    """

    doc_idx: Tensor
    query_idx: Tensor


class CodedDocuments(NamedTuple):
    """Documents as an index stores them.

    Attributes:
        offsets: (A + 1,) int64, where each document's tokens begin.
        codes: (document tokens,) unsigned or int32, the centroid of each token.
        residuals: (document tokens, E · nbits / 8) uint8, packed.
        inverse_norms: (document tokens,) float32, 1 / norm of the decoded vector.
    """

    offsets: Tensor
    codes: Tensor
    residuals: Tensor
    inverse_norms: Tensor


class PostingLists(NamedTuple):
    """The documents of each cell.

    Attributes:
        doc_idx: (postings,) int32: the documents of cell 0, of cell 1, …, each list ascending.
        offsets: (cells + 1,) int64, where each list begins.
    """

    doc_idx: Tensor
    offsets: Tensor


class Probes(NamedTuple):
    """The cells to probe.

    Attributes:
        cells: (query tokens, n_ivf_probe) int32, best first.
        gains: (query tokens, n_ivf_probe) int32, descending: what a document in the cell's list gains for that token
            over a document that no probed cell holds; 0 for nothing.
    """

    cells: Tensor
    gains: Tensor

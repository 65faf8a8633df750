"""The kernels of search and build on the GPU, one by one, over a synthetic coded collection.

100,000 documents of 187 tokens (even from 63 to 137 % of that), 128 dimensions, 65,536 centroids, random codes and
residuals. Random codes are the worst case: in a real collection neighbours share rows of the table of centroid scores.

    residual_maxsim    one query with all documents, 64 queries with 4,096 candidates each; "packed GB/s" counts the
                       bytes of residuals alone, "all GB/s" also codes, norms and rows of the table. Goal: packed
                       bytes at 60 % of the copy bandwidth
    exact_maxsim       64 queries, 256 candidates each, as at the end of a search
    centroid_maxsim    as residual_maxsim
    walk_lists         32 tokens a query, 8 cells each
    encode             4 million float16 tokens
    nearest, sums_by   the two steps of k-means, a million tokens and all centroids; PyTorch beside them

The floor is what must be read and written once for each pair or token, or multiplied. Writes results/gpu_plaid.json.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import common
import torch
from torch import Tensor

from colbertz.kernels import reference
from colbertz.kernels.arrays import CodedDocuments, PostingLists, Probes
from colbertz.kernels.cpu.bits import reversed_bits
from colbertz.kernels.triton import kmeans, posting_lists
from colbertz.kernels.triton import residuals as coding
from colbertz.kernels.triton.centroid_maxsim import centroid_maxsim
from colbertz.kernels.triton.residual_maxsim import exact_maxsim, residual_maxsim

DOCUMENTS, DOCUMENT_TOKENS, DIM = common.sized((100_000, 187, 128), (20, 20, 32))
CENTROIDS, QUERY_TOKENS, PROBES = common.sized((65_536, 32, 8), (24, 16, 3))
# Queries, and candidates of each.
SEARCHES = common.sized([(1, 100_000), (64, 4096)], [(1, 20), (2, 6)])
EXACT = common.sized((64, 256), (2, 4))
CODED_TOKENS, CLUSTERED_TOKENS = common.sized((1 << 22, 1 << 20), (40, 40))
# Tokens whose scores with all centroids PyTorch holds at a time.
AT_A_TIME = 16_384
NBITS = (1, 2, 4, 8)
CHECKED = 16


@dataclass
class Coded:
    """A collection without residuals, which differ from row to row of the table."""

    offsets: Tensor
    codes: Tensor
    norms: Tensor
    centroids: Tensor

    @property
    def lengths(self) -> Tensor:
        return self.offsets.diff()

    def tokens(self, doc_idx: int) -> slice:
        return slice(int(self.offsets[doc_idx]), int(self.offsets[doc_idx + 1]))

    def documents(self, packed: Tensor) -> CodedDocuments:
        return CodedDocuments(self.offsets, self.codes, packed, self.norms)


def collection() -> Coded:
    lengths = common.around(DOCUMENT_TOKENS, DOCUMENTS)
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    num_tokens = int(offsets[-1])
    codes = torch.randint(CENTROIDS, (num_tokens,), dtype=torch.int32, device=common.DEVICE).to(torch.uint16)
    norms = 0.8 + 0.4 * torch.rand(num_tokens, device=common.DEVICE)
    return Coded(offsets, codes, norms, common.unit(CENTROIDS, DIM, dtype=torch.float32))


def random_candidates(num_queries: int, n: int) -> Tensor:
    lists = [torch.randperm(DOCUMENTS, device=common.DEVICE)[:n] for _ in range(num_queries)]
    return torch.stack(lists).int()


def table_of(coded: Coded, queries: Tensor) -> Tensor:
    """(K, B, S) float16 scores of the centroids."""
    return (coded.centroids.half() @ queries.flatten(0, 1).half().T).view(CENTROIDS, *queries.shape[:2])


def verify(expected: Callable[[int, int], Tensor], candidates: Tensor, limit: float, scores: Tensor) -> float:
    """`expected` scores of a query and a document, for the first and the last candidates of first and last query."""
    half = min(CHECKED, candidates.shape[1]) // 2
    places = [(b, n) for b in {0, len(candidates) - 1} for n in [*range(half), *range(-half, 0)]]
    right = torch.stack([expected(b, int(candidates[b, n])) for b, n in places])
    return common.check(torch.stack([scores[place] for place in places]), right, limit)


def residual_row(
    report: common.Report, coded: Coded, nbits: int, packed: Tensor, num_queries: int, n: int, *, exact: bool
) -> None:
    dtype = torch.float32 if exact else torch.float16
    queries = common.unit(num_queries, QUERY_TOKENS, DIM, dtype=dtype)
    by_bucket = torch.linspace(-0.15, 0.15, 1 << nbits, device=common.DEVICE).to(dtype)
    weights = by_bucket[torch.from_numpy(reversed_bits(nbits)).long()]
    table = coded.centroids if exact else table_of(coded, queries)
    sets = [random_candidates(num_queries, n) for _ in range(2)]
    kernel = exact_maxsim if exact else residual_maxsim

    def expected(b: int, document: int) -> Tensor:
        tokens = coded.tokens(document)
        codes, norms = coded.codes[tokens].long(), coded.norms[tokens][:, None]
        residual = by_bucket.float()[reference.unpack_buckets(packed[tokens].cpu(), nbits).to(common.DEVICE)]
        if exact:
            return common.maxsim_pair(queries[b], (coded.centroids[codes] + residual) * norms)
        scores = table[codes, b].float() + residual @ queries[b].float().T
        return (scores * norms).amax(0).sum()

    num_tokens = int(coded.lengths[sets[0].long()].sum())
    packed_bytes = num_tokens * packed.shape[1]
    once = packed_bytes + num_tokens * (2 + 4) + 8 * sets[0].numel()
    floor = common.floor_ms(report.about, once, 2 * num_tokens * QUERY_TOKENS * DIM)

    def figures(ms: float) -> dict[str, Any]:
        rate = packed_bytes / ms / 1e6
        gathered = num_tokens * (4 * DIM if exact else 2 * QUERY_TOKENS)
        return {
            "packed GB/s": rate,
            "% of copy (goal ≥ 60)": 100 * rate / report.about["copy GB/s"],
            "all GB/s": (once + gathered) / ms / 1e6,
            "floor ms": floor,
            "× floor": ms / floor,
        }

    documents = coded.documents(packed)
    report.time(
        {"kernel": kernel.__name__, "nbits": nbits, "queries": num_queries, "candidates of each": n},
        lambda: [partial(kernel, queries, table, candidates, documents, weights) for candidates in sets],
        partial(verify, expected, sets[0], 1e-4 if exact else 2e-3),
        figures,
        ours=True,
    )


def centroid_row(report: common.Report, coded: Coded, packed: Tensor, num_queries: int, n: int) -> None:
    table = table_of(coded, common.unit(num_queries, QUERY_TOKENS, DIM))
    sets = [random_candidates(num_queries, n) for _ in range(2)]

    def expected(b: int, document: int) -> Tensor:
        return table[coded.codes[coded.tokens(document)].long(), b].float().amax(0).sum()

    num_tokens = int(coded.lengths[sets[0].long()].sum())
    floor = common.floor_ms(report.about, 2 * num_tokens + 8 * sets[0].numel())

    def figures(ms: float) -> dict[str, Any]:
        rows = num_tokens * 2 * QUERY_TOKENS / ms / 1e6
        return {"Gtokens/s": num_tokens / ms / 1e6, "table GB/s": rows, "floor ms": floor, "× floor": ms / floor}

    report.time(
        {"by codes": "centroid_maxsim", "queries": num_queries, "candidates of each": n},
        lambda: [partial(centroid_maxsim, table, candidates, coded.documents(packed)) for candidates in sets],
        partial(verify, expected, sets[0], 1e-4),
        figures,
        ours=True,
    )


def postings(coded: Coded) -> PostingLists:
    """The documents of each cell."""
    documents = torch.arange(DOCUMENTS, device=common.DEVICE).repeat_interleave(coded.lengths)
    keys = torch.unique(coded.codes.long() * DOCUMENTS + documents)
    bounds = torch.arange(CENTROIDS + 1, device=common.DEVICE) * DOCUMENTS
    return PostingLists((keys % DOCUMENTS).int(), torch.searchsorted(keys, bounds))


def random_probes(rows: int) -> Probes:
    """PROBES different cells in each row, with random gains."""
    first = torch.randint(CENTROIDS, (rows, 1), dtype=torch.int32, device=common.DEVICE)
    cells = (first + 7 * torch.arange(PROBES, dtype=torch.int32, device=common.DEVICE)) % CENTROIDS
    gains = torch.randint(1, 1000, (rows, PROBES), dtype=torch.int32, device=common.DEVICE)
    return Probes(cells, gains.sort(dim=1, descending=True).values.contiguous())


def walk_row(report: common.Report, lists: PostingLists, num_queries: int) -> None:
    sets = [random_probes(num_queries * QUERY_TOKENS) for _ in range(4)]
    query_of = torch.arange(num_queries, dtype=torch.int32, device=common.DEVICE).repeat_interleave(QUERY_TOKENS)

    def walk(probes: Probes) -> Tensor:
        gained = torch.zeros(num_queries, DOCUMENTS, dtype=torch.int32, device=common.DEVICE)
        posting_lists.walk_lists(probes, query_of, lists, gained)
        return gained

    def check(gained: Tensor) -> float:
        """Exact for the last query: the gains of a token's cells are written worst first, so the best one remains."""
        expected = torch.zeros(DOCUMENTS, dtype=torch.int64, device=common.DEVICE)
        for cells, gains in zip(*(part[-QUERY_TOKENS:].tolist() for part in sets[0])):
            best = torch.zeros_like(expected)
            for cell, gain in reversed(list(zip(cells, gains))):
                best[lists.doc_idx[lists.offsets[cell] : lists.offsets[cell + 1]].long()] = gain
            expected += best
        return common.check(gained[-1], expected, 0)

    walked = int(lists.offsets.diff()[sets[0].cells.long()].sum())
    # Sums are zeroed; each posting is read, and a sum read and written.
    floor = common.floor_ms(report.about, 4 * num_queries * DOCUMENTS + 12 * walked)
    report.time(
        {"by lists": "walk_lists", "queries": num_queries, "probes": PROBES, "postings": walked},
        lambda: [partial(walk, probes) for probes in sets],
        check,
        lambda ms: {"Gpostings/s": walked / ms / 1e6, "floor ms": floor, "× floor": ms / floor},
        ours=True,
    )


def encode_row(report: common.Report, coded: Coded, tokens: Tensor, codes: Tensor, nbits: int) -> None:
    cutoffs = torch.linspace(-0.2, 0.2, (1 << nbits) + 1, device=common.DEVICE)[1:-1].contiguous()
    weights = torch.linspace(-0.2, 0.2, 1 << nbits, device=common.DEVICE)

    def check(out: tuple[Tensor, ...]) -> float:
        checked = [*range(CHECKED), *range(-CHECKED, 0)]
        packed, inverse_norms, distances = (part[checked].cpu() for part in out)
        vectors, centroids = tokens[checked].float().cpu(), coded.centroids.cpu()
        vector_codes = codes[checked].long().cpu()
        expected = reference.encode_residuals(vectors, centroids, vector_codes, cutoffs.cpu())
        decoded = reference.decode_residuals(centroids, vector_codes, expected, weights.cpu())
        common.check(distances, (vectors - centroids[vector_codes]).norm(dim=1), 1e-5)
        common.check(inverse_norms, 1 / decoded.norm(dim=1), 1e-3)
        return common.check(packed, expected, 0)

    nbytes = tokens.nbytes + codes.nbytes + len(tokens) * (DIM * nbits // 8 + 8)
    floor = common.floor_ms(report.about, nbytes)
    report.time(
        {"coding": "encode", "nbits": nbits, "tokens": len(tokens)},
        lambda: [partial(coding.encode, tokens, coded.centroids, codes, cutoffs, weights)],
        check,
        lambda ms: {"Mtokens/s": len(tokens) / ms / 1e3, "floor ms": floor, "× floor": ms / floor},
        ours=True,
    )


def plain_nearest(tokens: Tensor, centroids: Tensor) -> Tensor:
    return torch.cat([(part @ centroids.T).argmax(1).int() for part in tokens.split(AT_A_TIME)])


def plain_sums(tokens: Tensor, codes: Tensor, num_centroids: int) -> tuple[Tensor, Tensor]:
    sums = torch.zeros(num_centroids, tokens.shape[1], device=tokens.device)
    return sums.index_add_(0, codes, tokens.float()), torch.bincount(codes, minlength=num_centroids)


def nearest_rows(report: common.Report, dtype: torch.dtype, repeats: int) -> None:
    tokens = common.unit(CLUSTERED_TOKENS, DIM, dtype=dtype)
    centroids = common.unit(CENTROIDS, DIM, dtype=dtype)

    def check(codes: Tensor) -> float:
        """The score of the chosen centroid against the best one's: ties and rounding may choose another."""
        checked = torch.linspace(0, len(tokens) - 1, 512).long().to(codes.device)
        scores = tokens[checked].float() @ centroids.float().T
        return common.check(scores.gather(1, codes[checked].long()[:, None]), scores.amax(1), 1e-3)

    flops = 2 * len(tokens) * len(centroids) * DIM
    floor = common.floor_ms(report.about, tokens.nbytes + centroids.nbytes, flops)

    def figures(ms: float) -> dict[str, Any]:
        rate = flops / ms / 1e9
        share = 100 * rate / report.about["matmul TFLOP/s"]
        return {"TFLOP/s": rate, "% of matmul": share, "floor ms": floor, "× floor": ms / floor}

    row = {"k-means": "nearest", "dtype": str(dtype).removeprefix("torch."), "tokens": len(tokens)}
    for name, function in (("colbertz", kmeans.nearest), ("PyTorch", plain_nearest)):
        report.time(
            row | {"contender": name},
            lambda function=function: [partial(function, tokens, centroids)],
            check,
            figures,
            ours=name == "colbertz",
            repeats=repeats,
        )


def sums_rows(report: common.Report) -> None:
    tokens = common.unit(CLUSTERED_TOKENS, DIM, dtype=torch.float16)
    codes = torch.randint(CENTROIDS, (len(tokens),), dtype=torch.int32, device=common.DEVICE)
    floor = common.floor_ms(report.about, tokens.nbytes + codes.nbytes + CENTROIDS * (4 * DIM + 8))
    expected = plain_sums(tokens.double(), codes, CENTROIDS)[0]
    row = {"k-means": "sums_by", "dtype": "float16", "tokens": len(tokens)}
    for name, function in (("colbertz", kmeans.sums_by), ("PyTorch", plain_sums)):
        report.time(
            row | {"contender": name},
            lambda function=function: [partial(function, tokens, codes, CENTROIDS)],
            lambda out: common.check(out[0], expected, 1e-4),
            lambda ms: {"floor ms": floor, "× floor": ms / floor},
            ours=name == "colbertz",
            graph=name == "colbertz",  # bincount waits for the device
        )


def main() -> None:
    args = common.arguments(__doc__).parse_args()
    torch.manual_seed(0)
    report = common.Report("plaid", common.machine(), args.out)
    coded = collection()
    for nbits in NBITS:
        size = (int(coded.offsets[-1]), DIM * nbits // 8)
        packed = torch.randint(256, size, dtype=torch.uint8, device=common.DEVICE)
        for num_queries, n in SEARCHES:
            residual_row(report, coded, nbits, packed, num_queries, n, exact=False)
        residual_row(report, coded, nbits, packed, *EXACT, exact=True)
    for num_queries, n in SEARCHES:
        centroid_row(report, coded, packed, num_queries, n)
    lists = postings(coded)
    for num_queries, _ in SEARCHES:
        walk_row(report, lists, num_queries)
    tokens = common.unit(CODED_TOKENS, DIM, dtype=torch.float16)
    codes = torch.randint(CENTROIDS, (CODED_TOKENS,), dtype=torch.int32, device=common.DEVICE)
    for nbits in NBITS:
        encode_row(report, coded, tokens, codes, nbits)
    nearest_rows(report, torch.bfloat16, repeats=10)
    nearest_rows(report, torch.float16, repeats=10)
    nearest_rows(report, torch.float32, repeats=3)
    sums_rows(report)
    report.finish()


if __name__ == "__main__":
    main()

"""MaxSim of one query with many documents on the GPU, beside flash-maxsim and PyTorch; no gradient.

32 query tokens, 128 dimensions, bf16; documents of 300 or 1,024 tokens each, of different lengths ("ragged", even from
63 to 137 % of the mean), also in one byte per value. Goals: at most 1.3 × floor, and never slower than flash-maxsim.

"compiled" is `torch.compile` with `max-autotune-no-cudagraphs`; it is captured in a graph like the others. Contenders
that need padding get padded documents and a mask. flash-maxsim is measured where it is installed; its packed form would
convert bf16 to float16 in every call, so it gets float16. Writes results/gpu_maxsim.json.
"""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import common
import torch
from torch import Tensor

from colbertz import Ragged, quantised
from colbertz.kernels.triton.maxsim import maxsim

QUERY_TOKENS, DIM = common.sized((32, 128), (5, 32))
SHAPES = common.sized([(300, 1000), (300, 5000), (1024, 1000), (1024, 5000)], [(40, 6)])
CHECKED = 50
BYTES = (torch.int8, torch.float8_e4m3fn)
flash_maxsim: Any = None
if importlib.util.find_spec("flash_maxsim") and not common.DRY:
    import flash_maxsim


def ours(queries: Ragged, documents: Ragged, scales: Tensor | None = None) -> Tensor:
    return maxsim(common.arrays_of(queries), common.arrays_of(documents), scales=scales)[0][0]


def plain(query: Tensor, documents: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scores (A,) of a query (S, E) with documents (A, T, E), without tokens where `mask` (A, T) is false."""
    scores = torch.einsum("se,ate->ast", query, documents)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], -torch.inf)
    return scores.amax(2).float().sum(1)


def verify(queries: Ragged, documents: Ragged, limit: float, scores: Tensor) -> float:
    """Against float32, over the first documents and the last."""
    checked = [*range(min(CHECKED, len(documents))), -1]
    expected = torch.stack([common.maxsim_pair(queries[0], documents[a]) for a in checked])
    return common.check(scores[checked], expected, limit)


def fixed_contenders(sets: list[tuple[Ragged, Ragged]], tokens: int) -> dict[str, Callable[[], common.Calls]]:
    """Documents of one length."""

    def padded(function: Callable[..., Tensor]) -> common.Calls:
        return [partial(function, q.values, d.values.view(-1, tokens, DIM)) for q, d in sets]

    out: dict[str, Callable[[], common.Calls]] = {"colbertz": lambda: [partial(ours, q, d) for q, d in sets]}
    if flash_maxsim:
        out["flash-maxsim"] = lambda: padded(flash_maxsim.flash_maxsim)
    out["PyTorch"] = lambda: padded(plain)
    out["PyTorch, compiled"] = lambda: padded(compiled())
    return out


def ragged_contenders(sets: list[tuple[Ragged, Ragged]]) -> dict[str, Callable[[], common.Calls]]:
    def padded(function: Callable[..., Tensor]) -> common.Calls:
        return [partial(function, q.values, *d.padded()) for q, d in sets]

    def flash_padded(query: Tensor, documents: Tensor, mask: Tensor) -> Callable[[], Tensor]:
        return partial(flash_maxsim.flash_maxsim, query, documents, mask.sum(1).int())

    def flash_packed(query: Ragged, documents: Ragged) -> Callable[[], Tensor]:
        values = documents.values.half()
        longest = int(documents.lengths.max())
        return partial(flash_maxsim.flash_maxsim_packed, query.values.half(), values, documents.offsets.int(), longest)

    out: dict[str, Callable[[], common.Calls]] = {"colbertz": lambda: [partial(ours, q, d) for q, d in sets]}
    if flash_maxsim:
        out["flash-maxsim, packed"] = lambda: [flash_packed(q, d) for q, d in sets]
        out["flash-maxsim, padded"] = lambda: [flash_padded(q.values, *d.padded()) for q, d in sets]
    out["PyTorch, padded"] = lambda: padded(plain)
    out["PyTorch, padded, compiled"] = lambda: padded(compiled())
    return out


def compiled() -> Callable[..., Tensor]:
    if common.DRY:  # a dry run needs no compiler
        return plain
    torch._dynamo.reset()
    return torch.compile(plain, mode="max-autotune-no-cudagraphs", dynamic=False)


def figures(
    report: common.Report, queries: Ragged, documents: Ragged, first: float | None, ms: float
) -> dict[str, Any]:
    """Times in relation to the floor, and to ours, which is `first` ms."""
    nbytes = documents.values.nbytes + queries.values.nbytes + 4 * len(documents)
    if documents.values.itemsize == 1:
        nbytes += 4 * len(documents.values)  # the scales
    floor = common.floor_ms(report.about, nbytes, 2 * QUERY_TOKENS * documents.values.numel())
    return {"floor ms": floor, "× floor": ms / floor, "× colbertz": ms / (first or ms)}


def measure(
    report: common.Report, row: dict[str, Any], sets: list[Any], contenders: dict[str, Callable[[], common.Calls]]
) -> None:
    """Time all contenders, ours first. Peers may round scores to their dtype, ours may not."""
    first = None
    for name, calls in contenders.items():
        is_ours = name == "colbertz"
        ms = report.time(
            row | {"documents in": "bfloat16", "contender": name},
            calls,
            partial(verify, *sets[0], 1e-4 if is_ours else 1e-2),
            partial(figures, report, *sets[0], first),
            ours=is_ours,
        )
        first = ms if is_ours else first


def bytes_of(report: common.Report, row: dict[str, Any], sets: list[tuple[Ragged, Ragged]]) -> None:
    """Time documents in int8 and float8; scores are compared with those of the dequantised values."""
    for dtype in BYTES:
        coded = [(q, *quantised(d, dtype)) for q, d in sets]
        queries, documents, scales = coded[0]
        decoded = documents.with_values(documents.values.float() * scales[:, None])
        report.time(
            row | {"documents in": str(dtype).removeprefix("torch."), "contender": "colbertz"},
            lambda coded=coded: [partial(ours, *arguments) for arguments in coded],
            partial(verify, queries, decoded, 1e-4),
            partial(figures, report, queries, documents, None),
            ours=True,
        )


def main() -> None:
    args = common.arguments(__doc__).parse_args()
    torch.manual_seed(0)
    report = common.Report("maxsim", common.machine("flash-maxsim"), args.out)
    for tokens, count in SHAPES:
        num_sets = common.sets_for(2 * DIM * tokens * count)
        row = {"documents": count, "tokens each": str(tokens)}
        query = torch.tensor([QUERY_TOKENS], device=common.DEVICE)
        sets = [
            (common.texts(query, DIM), common.texts(torch.full((count,), tokens, device=common.DEVICE), DIM))
            for _ in range(num_sets)
        ]
        measure(report, row, sets, fixed_contenders(sets, tokens))
        bytes_of(report, row, sets)
        lengths = common.around(tokens, count)
        sets = [(q, common.texts(lengths, DIM)) for q, _ in sets]
        measure(report, row | {"tokens each": f"{tokens}, ragged"}, sets, ragged_contenders(sets))
    report.finish()


if __name__ == "__main__":
    main()

"""Tokens a second of the encoder on the GPU in bf16: ModernBERT-base's shape, random weights, beside transformers.

4,096 documents, lognormal lengths around 187 tokens, 512 at most; then 16 documents of 8,192. Both sides get token ids
on the device, sorted by length, in batches of at most 65,536 tokens (transformers': padding included), and the same
weights. TFLOP/s count what real tokens need: products with the weights, and attention over the tokens in reach; "% of
matmul" is their share of the measured rate (MFU). The gate is a mean cosine of last hidden states above 0.999: of ours
with ours in float32 without FlashAttention, and of transformers' with ours.

transformers runs with its SDPA, and with FlashAttention-2 where flash-attn is installed. Writes
results/gpu_encoder.json.
"""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import common
import torch
import torch.nn.functional as F
from encode import gflop
from torch import Tensor, nn

from colbertz import ColBERT, Ragged
from colbertz.models import ModernBertConfig
from colbertz.models.encoders.modernbert import ModernBert

SIZES: dict[str, int] = common.sized(
    {},
    {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2},
)
DOCUMENTS, LONG = common.sized((4096, (16, 8192)), (12, (2, 300)))
BATCH_TOKENS = common.sized(65_536, 1024)
DTYPE = common.sized(torch.bfloat16, torch.float32)
CHECKED = 64  # documents
COSINE = 0.999


def lengths_of(count: int) -> Tensor:
    """Lognormal with mean 187, from 8 to 512, ascending."""
    mean, deviation = 187, 0.5
    drawn = torch.exp(torch.randn(count) * deviation) * mean / torch.exp(torch.tensor(deviation**2 / 2))
    return drawn.long().clamp(8, 512).sort().values


def model(config: ModernBertConfig) -> ColBERT:
    """Random weights, no projection, and a stand-in for the tokenizer, which nothing here uses."""
    encoder = ModernBert(config)
    encoder.reset_parameters()
    tokenizer: Any = object()
    return ColBERT(encoder, [], tokenizer).eval().to(common.DEVICE, DTYPE)


def peer(encoder: ModernBert, attention: str) -> nn.Module:
    """ModernBERT of transformers with our weights."""
    from transformers import ModernBertConfig as Config
    from transformers import ModernBertModel

    config = Config(**encoder.config.to_dict(), attn_implementation=attention)
    made = ModernBertModel(config)
    made.load_state_dict(encoder.state_dict())
    return made.eval().to(common.DEVICE, DTYPE)


def padded_batches(ids: Ragged) -> list[tuple[Tensor, Tensor]]:
    """Ids and mask of neighbours in length, as many as fit BATCH_TOKENS with their padding."""
    batches, first, lengths = [], 0, ids.lengths.tolist()
    for last in range(1, len(ids) + 1):
        if last == len(ids) or (last + 1 - first) * lengths[last] > BATCH_TOKENS:
            batches.append(ids[first:last].padded())
            first = last
    return batches


def ours(encoder: ModernBert, ids: Ragged) -> Callable[[], list[Tensor]]:
    batches = ids.split(BATCH_TOKENS)
    return lambda: [encoder(batch) for batch in batches]


def theirs(peer: nn.Module, ids: Ragged) -> Callable[[], list[Tensor]]:
    batches = padded_batches(ids)
    return lambda: [peer(input_ids=tokens, attention_mask=mask.long()).last_hidden_state for tokens, mask in batches]


def check(run: Callable[[Ragged], Tensor], other: Callable[[Ragged], Tensor], ids: Ragged) -> float:
    """1 - the mean cosine of both sides' hidden states over some documents, the longest among them."""
    some = ids[torch.linspace(0, len(ids) - 1, min(CHECKED, len(ids))).long()]
    cosine = float(F.cosine_similarity(run(some).float(), other(some).float(), dim=1).mean())
    if not cosine > COSINE:
        raise common.WrongError(f"wrong: mean cosine {cosine:.6f}, above {COSINE} expected")
    return 1 - cosine


def flat(peer: nn.Module, ids: Ragged) -> Tensor:
    """The hidden states of real tokens by transformers."""
    return torch.cat([out[mask] for out, (_, mask) in zip(theirs(peer, ids)(), padded_batches(ids))])


def peers() -> dict[str, str]:
    """Names and attention of transformers, as far as installed."""
    if not importlib.util.find_spec("transformers"):
        return {}
    out = {"transformers, SDPA": "sdpa"}
    if importlib.util.find_spec("flash_attn"):
        out["transformers, FlashAttention-2"] = "flash_attention_2"
    return out


def measure(report: common.Report, colbert: ColBERT, lengths: Tensor) -> None:
    encoder: Any = colbert.encoder
    ids = torch.randint(encoder.config.vocab_size, (int(lengths.sum()),))
    batch = Ragged.from_lengths(ids, lengths).to(common.DEVICE)
    work = sum(gflop(colbert, lengths).values())
    row = {"documents": len(lengths), "tokens": len(ids), "longest": int(lengths.max())}
    first = None

    def figures(ms: float) -> dict[str, Any]:
        rate = work / ms
        share = 100 * rate / report.about["matmul TFLOP/s"]
        speed = {"tokens/s": len(ids) / ms * 1e3, "TFLOP/s": rate, "% of matmul": share}
        return speed | {"documents/s": len(lengths) / ms * 1e3, "× colbertz": ms / (first or ms)}

    single = model(encoder.config).encoder.float()
    single.load_state_dict(encoder.state_dict())
    first = report.time(
        row | {"contender": "colbertz"},
        lambda: [ours(encoder, batch)],
        lambda _: check(encoder, single, batch),
        figures,
        ours=True,
        graph=False,
        repeats=5,
    )
    for name, attention in peers().items():
        with report.attempt(row | {"contender": name}, ours=False):
            made = peer(encoder, attention)
            report.time(
                row | {"contender": name},
                lambda made=made: [theirs(made, batch)],
                lambda _, made=made: check(partial(flat, made), encoder, batch),
                figures,
                ours=False,
                graph=False,
                repeats=3,
            )


def main() -> None:
    args = common.arguments(__doc__).parse_args()
    torch.manual_seed(0)
    report = common.Report("encoder", common.machine("transformers", "flash-attn"), args.out)
    colbert = model(ModernBertConfig(**SIZES))
    with torch.inference_mode():
        measure(report, colbert, lengths_of(DOCUMENTS))
        measure(report, colbert, torch.full(LONG[:1], LONG[1]))
    report.finish()


if __name__ == "__main__":
    main()

"""Attention of kernels/cpu/attention.py, as plain products, against that of PyTorch, in bfloat16 on the CPU.

Prints a table and writes results/attention_cpu.json. A row is one attention layer of the nano model, with 4 heads of 64
dimensions, over 16,384 tokens in texts of equal length. The last row is the forward and backward pass of the nano
model's encoder on texts of 20 to 300 tokens.
"""

from unittest import mock

import common
import torch
import torch.nn.functional as F

from colbertz import Ragged
from colbertz.kernels.cpu.attention import bf16_attention
from colbertz.models.encoders import packing
from colbertz.models.encoders.modernbert import ModernBert, ModernBertConfig
from colbertz.training.memory import keep_freed_memory

TOKENS = 16_384
HEADS = 4
# Dimensions of a head.
DIM = 64


def main() -> None:
    keep_freed_memory()  # as train.py does
    about = common.machine()
    rows = [row for length in (12, 40, 150, 300, 1024) for row in layer(length)]
    rows.append(step())
    common.report("attention_cpu", about, rows)


def layer(length: int) -> list[dict[str, object]]:
    """Rows for one attention layer, forward and backward, over texts of `length` tokens."""
    num_texts = TOKENS // length
    q, k, v = (torch.randn(num_texts, HEADS, length, DIM).bfloat16().requires_grad_() for _ in range(3))
    gradient = torch.randn_like(q)

    def backward(y: torch.Tensor) -> object:
        return torch.autograd.grad(y, (q, k, v), gradient, retain_graph=True)

    ours, theirs = bf16_attention(q, k, v), F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)
    gflop = 4 * num_texts * HEADS * length**2 * DIM / 1e9
    runs = {
        # The second value is the number of products relative to the forward pass; both compute the scores again in the
        # backward pass.
        ("forward", 1.0): {
            "ours": lambda: bf16_attention(q, k, v),
            "PyTorch": lambda: F.scaled_dot_product_attention(q, k, v),
        },
        ("backward", 2.5): {"ours": lambda: backward(ours), "PyTorch": lambda: backward(theirs)},
    }
    return [
        row(f"{num_texts:,} texts of {length:,}, {name}", common.seconds(contenders), gflop * work)
        for (name, work), contenders in runs.items()
    ]


def step() -> dict[str, object]:
    """The row for the forward and backward pass of the encoder."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(20, 301, (100,), generator=generator)
    ids = Ragged.from_lengths(torch.randint(0, 16_384, (int(lengths.sum()),), generator=generator), lengths)
    config = ModernBertConfig(
        vocab_size=16_384, hidden_size=256, intermediate_size=384, num_hidden_layers=3, num_attention_heads=HEADS
    )
    encoder = ModernBert(config)
    encoder.reset_parameters()

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            y = encoder(ids)
        y.backward(torch.ones_like(y))

    def run_with_pytorch() -> None:
        with mock.patch.object(packing, "uses_bf16_attention", lambda dtype: False):
            run()

    return row(
        f"a step of the encoder, {len(ids.values):,} tokens", common.seconds({"ours": run, "PyTorch": run_with_pytorch})
    )


def row(what: str, durations: dict[str, float], gflop: float | None = None) -> dict[str, object]:
    rates = {f"{name} GFLOP/s": gflop / seconds if gflop else "" for name, seconds in durations.items()}
    milliseconds = {f"{name} ms": 1e3 * seconds for name, seconds in durations.items()}
    return {"what": what, **milliseconds, **rates, "times faster": durations["PyTorch"] / durations["ours"]}


if __name__ == "__main__":
    main()

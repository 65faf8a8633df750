"""Why kernels/cpu/attention.py exists: attention as plain products, and PyTorch's, in bfloat16 on the CPU.

Prints a table and writes results/attention_cpu.json. A row is one layer of the nano model's attention, 4 heads of 64
dimensions, over 16,384 tokens in texts of a length; then a training step of such a model (nothing but its encoder's
forward and backward pass) on texts of 20 to 300 tokens, laid out for either.
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

TOKENS, HEADS, DIM = 16_384, 4, 64


def main() -> None:
    keep_freed_memory()  # as training does
    about = common.machine()
    rows = [row for length in (12, 40, 150, 300, 1024) for row in layer(length)]
    rows.append(step())
    common.report("attention_cpu", about, rows)


def layer(length: int) -> list[dict[str, object]]:
    count = TOKENS // length
    q, k, v = (torch.randn(count, HEADS, length, DIM).bfloat16().requires_grad_() for _ in range(3))
    gradient = torch.randn_like(q)

    def backward(y: torch.Tensor) -> object:
        return torch.autograd.grad(y, (q, k, v), gradient, retain_graph=True)

    ours, theirs = bf16_attention(q, k, v), F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)
    gflop = 4 * count * HEADS * length**2 * DIM / 1e9
    runs = {
        # The products that each has to make at least; the scores are computed again in the backward pass of both.
        ("forward", 1.0): {
            "ours": lambda: bf16_attention(q, k, v),
            "PyTorch": lambda: F.scaled_dot_product_attention(q, k, v),
        },
        ("backward", 2.5): {"ours": lambda: backward(ours), "PyTorch": lambda: backward(theirs)},
    }
    return [
        row(f"{count:,} texts of {length:,}, {name}", common.seconds(contenders), gflop * work)
        for (name, work), contenders in runs.items()
    ]


def step() -> dict[str, object]:
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

    def pytorchs() -> None:
        with mock.patch.object(packing, "uses_bf16_attention", lambda dtype: False):
            run()

    return row(f"a step of the encoder, {len(ids.values):,} tokens", common.seconds({"ours": run, "PyTorch": pytorchs}))


def row(what: str, took: dict[str, float], gflop: float | None = None) -> dict[str, object]:
    rates = {f"{name} GFLOP/s": gflop / seconds if gflop else "" for name, seconds in took.items()}
    milliseconds = {f"{name} ms": 1e3 * seconds for name, seconds in took.items()}
    return {"what": what, **milliseconds, **rates, "times faster": took["PyTorch"] / took["ours"]}


if __name__ == "__main__":
    main()

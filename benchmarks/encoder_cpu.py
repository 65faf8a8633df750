"""kernels/cpu/encoder.py, which computes without gradient, against PyTorch's operators in bfloat16.

    python benchmarks/encoder_cpu.py

2,048 tokens on one core, medians of processor time. `attention` of ours includes cutting out the heads, and turning
them where there are positions; PyTorch's has them already, as `scaled_dot_product_attention` wants them, and turned.
"as products" is kernels/cpu/attention.py, which training uses, on such heads too. Writes results/encoder_cpu.json.
"""

import time
from collections.abc import Callable

import common
import torch
import torch.nn.functional as F

from colbertz.kernels import cpu, reference
from colbertz.kernels.cpu.attention import bf16_attention

TOKENS = 2048
# Names, heads, their dimension, size of the gate, half of the window.
SIZES = [("nano", 4, 64, 512, 64), ("MiniLM-L6", 12, 32, None, None), ("base", 12, 64, 1152, 64)]


def main() -> None:
    torch.set_num_threads(1)
    about = common.machine()
    rows = []
    with torch.no_grad():
        for name, heads, dim, gate, half_window in SIZES:
            if gate:
                rows.append(row(f"gated GELU, {name}", gates(gate)))
            for length in (64, 180, 300):
                rows.append(row(f"attention, {name}, {length} tokens", attentions(length, heads, dim, None)))
            if half_window:
                rows.append(row(f"the same in a window of {2 * half_window}", attentions(300, heads, dim, half_window)))
    common.report("encoder_cpu", about, rows)


def gates(size: int) -> dict[str, Callable[[], torch.Tensor]]:
    x = torch.randn(TOKENS, 2 * size).bfloat16()
    torch.testing.assert_close(cpu.encoder.gated_gelu(x), reference.gated_gelu(x), rtol=0.02, atol=1e-3)
    return {"ours": lambda: cpu.encoder.gated_gelu(x), "PyTorch": lambda: reference.gated_gelu(x)}


def attentions(length: int, heads: int, dim: int, half_window: int | None) -> dict[str, Callable[[], torch.Tensor]]:
    num_texts = TOKENS // length
    qkv = torch.randn(num_texts * length, 3 * heads * dim).bfloat16()
    q, k, v = qkv.chunk(3, dim=1)
    parts = cpu.encoder.chunks([length] * num_texts, heads, dim)
    angles = torch.zeros(length, dim // 2)  # angles of 0: turning changes nothing
    rotary = None if half_window is None else (angles.cos(), angles.sin())
    separate = [x.view(num_texts, length, heads, dim).transpose(1, 2).contiguous() for x in (q, k, v)]
    band = None
    if half_window is not None:
        place = torch.arange(length)
        band = (
            torch.zeros(length, length).masked_fill((place - place[:, None]).abs() > half_window, -torch.inf).bfloat16()
        )
    attended = torch.ones(num_texts, length, dtype=torch.bool)
    runs = {
        "ours": lambda: cpu.encoder.attention(q, k, v, parts, rotary, half_window),
        "PyTorch": lambda: F.scaled_dot_product_attention(*separate, attn_mask=band),
        "as products": lambda: bf16_attention(*separate, band, attended),
    }
    ours, theirs = runs["ours"](), runs["PyTorch"]().transpose(1, 2).reshape(len(q), -1)
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)
    return runs


def row(what: str, contenders: dict[str, Callable[[], torch.Tensor]]) -> dict[str, object]:
    durations = common.seconds(contenders, clock=time.process_time)
    return {
        "what": what,
        "ours ms": 1e3 * durations["ours"],
        "PyTorch ms": 1e3 * durations["PyTorch"],
        "as products ms": 1e3 * durations["as products"] if "as products" in durations else "",
        "times faster than PyTorch": durations["PyTorch"] / durations["ours"],
    }


if __name__ == "__main__":
    main()

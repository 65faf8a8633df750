"""Matrix products of kernels/cpu/linear.py, in oneDNN, against MKL, which PyTorch uses for float32 on the CPU.

Prints a table and writes results/linear_cpu.json. The shapes are those of ModernBERT base over 8,192 tokens, of the
nano model, and of a block of MaxSim scores. "weight gradient" is the backward pass.
"""

import common
import torch
import torch.nn.functional as F

from colbertz.kernels.cpu.linear import linear, product

SHAPES = {
    "fused QKV, base": (8192, 768, 2304),
    "MLP out, base": (8192, 1152, 768),
    "fused QKV, few tokens": (512, 768, 2304),
    "MLP out, nano": (8192, 512, 256),
    "MaxSim block": (1024, 128, 512),
}


def main() -> None:
    about = common.machine()
    rows = []
    for name, (num_rows, inner, columns) in SHAPES.items():
        x, weight = torch.randn(num_rows, inner), torch.randn(columns, inner, requires_grad=True)
        gradient = torch.randn(num_rows, columns)
        torch.testing.assert_close(linear(x, weight), F.linear(x, weight), rtol=1e-4, atol=1e-3)
        y_ours, y_torch = linear(x, weight), F.linear(x, weight)
        fixed = weight.detach()
        pairs = {
            "product": {"MKL": lambda a=x, b=fixed: a @ b.T, "oneDNN": lambda a=x, b=fixed: product(a, b)},
            "weight gradient": {
                "MKL": lambda y=y_torch, w=weight, g=gradient: torch.autograd.grad(y, w, g, retain_graph=True),
                "oneDNN": lambda y=y_ours, w=weight, g=gradient: torch.autograd.grad(y, w, g, retain_graph=True),
            },
        }
        for operation, contenders in pairs.items():
            durations = common.seconds(contenders)
            gflop = 2 * num_rows * inner * columns / 1e9
            rows.append(
                {
                    "shape": name,
                    "rows × inner × columns": f"{num_rows} × {inner} × {columns}",
                    "operation": operation,
                    "MKL GFLOP/s": gflop / durations["MKL"],
                    "oneDNN GFLOP/s": gflop / durations["oneDNN"],
                    "times faster": durations["MKL"] / durations["oneDNN"],
                }
            )
    common.report("linear_cpu", about, rows)


if __name__ == "__main__":
    main()

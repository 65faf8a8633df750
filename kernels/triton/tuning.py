"""Which configurations a Triton kernel is tried with, and what all kernels need: rows of embeddings, maxima with NaN.

A kernel has a small fixed list of configurations. The first call with a new key times those that fit in the chip's
shared memory; Triton keeps the winner on disk, beside the compiled kernels. In the interpreter nothing can be timed,
and the first configuration is taken.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl

# Rows of a matrix product are at least so many, and so is the dimension that is summed over.
SMALLEST = 16
# A wider row is multiplied in parts.
_WIDEST = 256

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


def autotuned(
    configs: Sequence[triton.Config], key: Sequence[str], bytes_needed: Callable[[dict[str, Any]], int]
) -> Callable[[Any], Any]:
    """Decorate a kernel to be tried with `configs` for every new value of the arguments named in `key`.

    Args:
        configs: the first one is taken where none is timed; the last one must fit everywhere.
        key: names of arguments, all of which should take few values.
        bytes_needed: shared memory by the kernel's arguments and the configuration's.
    """

    def fitting(configs: list[triton.Config], arguments: dict[str, Any], **more: Any) -> list[triton.Config]:
        limit = shared_memory()
        fits = [c for c in configs if bytes_needed({**arguments, **more, **staged(c)}) <= limit]
        return fits or configs[-1:]

    return triton.autotune(
        list(configs[:1] if INTERPRETED else configs),
        key=list(key),
        prune_configs_by={"early_config_prune": fitting},
        cache_results=True,
    )


def staged(config: triton.Config) -> dict[str, Any]:
    """What a configuration says, with its `num_stages`."""
    return {**config.kwargs, "num_stages": config.num_stages}


def shared_memory() -> int:
    """Bytes of shared memory a program may have on the current device."""
    driver = triton.runtime.driver.active
    return int(driver.utils.get_device_properties(driver.get_current_device())["max_shared_mem"])


def row_block(dim: int) -> int:
    """The power of two in which rows of `dim` numbers are loaded: the whole row if it is not too wide."""
    return max(SMALLEST, min(_WIDEST, triton.next_power_of_2(dim))) if dim <= _WIDEST else _WIDEST // 2


def size_class(count: int) -> int:
    """`count` to the nearest power of four, for keys."""
    return max(0, count.bit_length() // 2)


def precision(dtype: torch.dtype) -> str:
    """How float32 is multiplied: like PyTorch, exactly unless `torch.set_float32_matmul_precision` allows less.

    Nvidia's tensor cores reach float32's accuracy with three products of tf32; AMD's multiply float32.
    """
    if dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        return "tf32"
    return "ieee" if dtype != torch.float32 or on_amd() else "tf32x3"


def on_amd() -> bool:
    return torch.version.hip is not None


@triton.jit
def load_rows(base, rows, first, E: tl.constexpr, BLOCK_E: tl.constexpr):  # type: ignore[no-untyped-def]
    """(len(rows), BLOCK_E): the columns `first` … of some rows (int64) of a matrix with E columns; 0 beyond them."""
    columns = first + tl.arange(0, BLOCK_E)
    at = base + rows[:, None] * E + columns[None, :]
    if E % BLOCK_E == 0:
        out = tl.load(at)
    else:
        out = tl.load(at, mask=columns[None, :] < E, other=0.0)  # an integer could not become a float8
    return out


@triton.jit
def product(a, b, sums, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """The dot products of rows, a · bᵀ, in float32, added to `sums` if that is not None."""
    if INTERPRETED:  # the interpreter multiplies the bits of bf16 as if they were integers
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, tl.trans(b), sums, input_precision=PRECISION)


@triton.jit
def larger(a, b):  # type: ignore[no-untyped-def]
    """The larger of two numbers; NaN is larger than all, so that it reaches the score."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)

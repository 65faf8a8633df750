"""Tuning of Triton kernels, and the functions that all kernels use: loading rows, products, maxima with NaN.

A kernel has a short fixed list of configurations. The first call with a new key times those that fit the chip's shared
memory; Triton keeps the fastest on disk, beside the compiled kernels. In the interpreter, where times mean nothing, the
first configuration is used.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl

# The smallest number of rows, and of summed dimensions, of a matrix product in Triton.
SMALLEST = 16
# Rows of more values than this are multiplied in parts.
_WIDEST = 256

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


def autotuned(
    configs: Sequence[triton.Config], key: Sequence[str], bytes_needed: Callable[[dict[str, Any]], int]
) -> Callable[[Any], Any]:
    """Decorate a kernel so that it is timed with `configs` for every new value of the arguments named in `key`.

    Args:
        configs: the first one is used where nothing is timed; the last one must fit every chip.
        key: names of arguments; each should take few values.
        bytes_needed: gives the bytes of shared memory for the arguments of the kernel and of the configuration.
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
    """The arguments of a configuration, `num_stages` among them."""
    return {**config.kwargs, "num_stages": config.num_stages}


def shared_memory() -> int:
    """Bytes of shared memory that a program may use on the current device."""
    driver = triton.runtime.driver.active
    return int(driver.utils.get_device_properties(driver.get_current_device())["max_shared_mem"])


def row_block(dim: int) -> int:
    """The power of two in which rows of `dim` values are loaded: the whole row if it is not too wide."""
    return max(SMALLEST, min(_WIDEST, triton.next_power_of_2(dim))) if dim <= _WIDEST else _WIDEST // 2


def size_class(count: int) -> int:
    """About the logarithm of `count` to base 4, for keys of tuning."""
    return max(0, count.bit_length() // 2)


def precision(dtype: torch.dtype) -> str:
    """How float32 is multiplied: as in PyTorch, exactly unless `torch.set_float32_matmul_precision` allows less.

    Nvidia's tensor cores reach the accuracy of float32 with three products of tf32; AMD's multiply float32.
    """
    if dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        return "tf32"
    return "ieee" if dtype != torch.float32 or on_amd() else "tf32x3"


def on_amd() -> bool:
    return torch.version.hip is not None


@triton.jit
def load_rows(base, rows, first, E: tl.constexpr, BLOCK_E: tl.constexpr):  # type: ignore[no-untyped-def]
    """(len(rows), BLOCK_E): columns from `first` on of some rows (int64) of a matrix with E columns; 0 beyond E."""
    columns = first + tl.arange(0, BLOCK_E)
    source = base + rows[:, None] * E + columns[None, :]
    if E % BLOCK_E == 0:
        out = tl.load(source)
    else:
        out = tl.load(
            source, mask=columns[None, :] < E, other=0.0
        )  # 0.0, because Triton cannot convert an integer 0 to float8
    return out


@triton.jit
def product(a, b, sums, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """The dot products of rows, a · bᵀ, in float32, added to `sums` if that is not None."""
    if INTERPRETED:  # the interpreter would multiply the bits of bf16 as integers
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, tl.trans(b), sums, input_precision=PRECISION)


@triton.jit
def larger(a, b):  # type: ignore[no-untyped-def]
    """The larger of two numbers; NaN counts as larger than every number, so that it reaches the score."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)

"""Two repairs of Triton's interpreter.

It computes reductions with a kernel's own function one value at a time, which is slow, and it converts integers to
bfloat16 wrongly.
"""

from typing import Any

import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, ReduceOps

plain_cast = InterpreterBuilder.cast_impl


def reduce_in_pairs(self: Any, input: tuple[Any, ...]) -> list[Any]:
    """Replaces `ReduceOps.generic_reduce`: combines neighbours, then neighbours of the results, as a GPU does."""
    values, axis = self.unravel(input, self.axis)
    while (width := values[0].handle.data.shape[axis]) > 1:
        halves = [
            self.to_tensor(value.handle.data.take(range(start, width, 2), axis), value.dtype)
            for start in (0, 1)
            for value in values
        ]
        combined = self.combine_fn.fn(*halves)
        values = combined if isinstance(combined, tuple) else (combined,)
    squeezed = [value.handle.data if self.keep_dims else value.handle.data.squeeze(axis) for value in values]
    return [self.to_tensor(data, value.dtype) for data, value in zip(squeezed, values)]


def cast(self: Any, source: Any, dtype: Any) -> Any:
    """Replaces `InterpreterBuilder.cast_impl`: integers become bfloat16 by way of float32."""
    if source.dtype.scalar.is_int() and dtype.scalar.is_bf16():
        return self.create_fp_to_fp(plain_cast(self, source, tl.float32), dtype, None)
    return plain_cast(self, source, dtype)


def repair() -> None:
    """Repair the interpreter of this process."""
    ReduceOps.generic_reduce = reduce_in_pairs
    InterpreterBuilder.cast_impl = cast

"""What all intrinsics here use: block sizes, the processor's features, and short forms of LLVM's instructions."""

from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir
from numba.core import cgutils, types

# Query tokens that are scored at once.
COLUMNS = 32
# Document tokens that are scored at once.
ROWS = 4

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


def cpu_features() -> set[str]:
    """Features, by LLVM's names, of the processor that numba compiles for."""
    if numba.config.CPU_NAME or numba.config.CPU_FEATURES is not None:
        return {f[1:] for f in (numba.config.CPU_FEATURES or "").split(",") if f.startswith("+")}
    return {name for name, is_present in llvmlite.binding.get_host_cpu_features().items() if is_present}


def vector_type(element: ir.Type, count: int) -> ir.VectorType:
    return ir.VectorType(element, count)


def call(builder: ir.IRBuilder, name: str, result: ir.Type, *arguments: ir.Value) -> ir.Value:
    """Call an LLVM function, usually an intrinsic such as `llvm.x86.avx512.vpdpbusd.512`."""
    function = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), arguments)


def load_vector(builder: ir.IRBuilder, array: ir.Value, index: ir.Value, wanted: ir.VectorType) -> ir.Value:
    """A vector that begins at `array[index]`; its elements need not have the type of the array's."""
    return builder.load(builder.bitcast(builder.gep(array, [index]), wanted.as_pointer()), align=1)


def store_vector(builder: ir.IRBuilder, value: ir.Value, array: ir.Value, index: ir.Value) -> None:
    """Write a vector from `array[index]` on."""
    builder.store(value, builder.bitcast(builder.gep(array, [index]), value.type.as_pointer()), align=1)


def spread(builder: ir.IRBuilder, value: ir.Value, lanes: int) -> ir.Value:
    """A vector with the same number in every lane."""
    undefined = ir.Constant(vector_type(value.type, lanes), ir.Undefined)
    alone = builder.insert_element(undefined, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(alone, undefined, ir.Constant(vector_type(I32, lanes), [0] * lanes))


def data_pointer(context: Any, builder: ir.IRBuilder, array_type: types.Array, array: ir.Value) -> ir.Value:
    """The pointer to the first element of a numba array."""
    return context.make_array(array_type)(context, builder, array).data


def byte_pointer(
    context: Any, builder: ir.IRBuilder, array_type: types.Array, array: ir.Value, start: ir.Value
) -> ir.Value:
    """The address of element `start` of a numba array, as a pointer to bytes."""
    return builder.bitcast(builder.gep(data_pointer(context, builder, array_type, array), [start]), I8.as_pointer())

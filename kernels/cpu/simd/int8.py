"""Rows of an encoder's activations to 8-bit integers, and products of such rows back, in LLVM IR: 16 numbers at a time.

The rows are bfloat16, passed as their bits in uint16, or float32.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .bf16 import LANES, narrow, widen
from .llvm import I8, I16, I32, I64, data_pointer, load_vector, spread, store_vector, vector_type

_FLOAT = ir.FloatType()
_FLOATS, _INTS = vector_type(_FLOAT, LANES), vector_type(I32, LANES)
_BITS, _BYTES = vector_type(I16, LANES), vector_type(I8, LANES)
# The scale of a row of zeros, times 127: any number would do that is not 0.
_TINY = 1e-30
# Added to a number between -127 and 127, it leaves the nearest integer plus 128 in the lowest 8 bits.
_ROUND = float(3 << 22) + 128


def _load(builder: ir.IRBuilder, data: ir.Value, index: ir.Value, dtype: types.Type) -> ir.Value:
    if dtype == types.float32:
        return load_vector(builder, data, index, _FLOATS)
    return widen(builder, load_vector(builder, data, index, _BITS))


def _store(builder: ir.IRBuilder, numbers: ir.Value, data: ir.Value, index: ir.Value, dtype: types.Type) -> None:
    store_vector(builder, numbers if dtype == types.float32 else narrow(builder, numbers), data, index)


def _columns(builder: ir.IRBuilder, width: ir.Value):  # type: ignore[no-untyped-def]
    return cgutils.for_range_slice(builder, ir.Constant(I64, 0), width, ir.Constant(I64, LANES))


@intrinsic
def quantise_row(typingctx, x, start, width, out):  # type: ignore[no-untyped-def]
    """Write the nearest integers of `x[start : start + width]` / scale, plus 128, to `out` (uint8, the same places).

    Arguments: `x` flat; `width` a multiple of LANES.

    Returns:
        The scale, float32: a 127th of the largest magnitude. It is not finite where the row has a number that is not.
    """

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data = data_pointer(context, builder, signature.args[0], args[0])
        target = data_pointer(context, builder, signature.args[3], args[3])
        _, start, width, _ = args
        state = cgutils.alloca_once(builder, _INTS)
        builder.store(ir.Constant(_INTS, [0] * LANES), state)

        def numbers(column: ir.Value) -> ir.Value:
            return _load(builder, data, builder.add(start, column), signature.args[0].dtype)

        def larger(a: ir.Value, b: ir.Value) -> ir.Value:
            return builder.select(builder.icmp_signed(">", a, b), a, b)

        # Magnitudes compare as their bits do, and NaN is above all of them.
        with _columns(builder, width) as (column, _):
            bits = builder.bitcast(numbers(column), _INTS)
            magnitude = builder.and_(bits, ir.Constant(_INTS, [0x7FFFFFFF] * LANES))
            builder.store(larger(magnitude, builder.load(state)), state)
        lanes = [builder.extract_element(builder.load(state), ir.Constant(I32, lane)) for lane in range(LANES)]
        while len(lanes) > 1:
            lanes = [larger(a, b) for a, b in zip(lanes[::2], lanes[1::2])]
        largest = builder.bitcast(lanes[0], _FLOAT)
        is_zero = builder.fcmp_ordered("<", largest, ir.Constant(_FLOAT, _TINY))
        largest = builder.select(is_zero, ir.Constant(_FLOAT, _TINY), largest)
        inverse = spread(builder, builder.fdiv(ir.Constant(_FLOAT, 127.0), largest), LANES)
        with _columns(builder, width) as (column, _):
            shifted = builder.fadd(builder.fmul(numbers(column), inverse), ir.Constant(_FLOATS, [_ROUND] * LANES))
            bytes_ = builder.trunc(builder.bitcast(shifted, _INTS), _BYTES)
            store_vector(builder, bytes_, target, builder.add(start, column))
        return builder.fdiv(largest, ir.Constant(_FLOAT, 127.0))

    return types.float32(x, types.int64, types.int64, out), codegen


@intrinsic
def scale_row(typingctx, x, start, width, scale, bias):  # type: ignore[no-untyped-def]
    """Multiply `x[start : start + width]` by `scale` and add `bias`, in place.

    Arguments: `x` flat; `width` a multiple of LANES; `scale` float32; `bias` (width,) of the type of `x`.
    """

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data = data_pointer(context, builder, signature.args[0], args[0])
        added = data_pointer(context, builder, signature.args[4], args[4])
        _, start, width, scale, _ = args
        scales, dtype = spread(builder, scale, LANES), signature.args[0].dtype
        with _columns(builder, width) as (column, _):
            place = builder.add(start, column)
            product = builder.fmul(_load(builder, data, place, dtype), scales)
            total = builder.fadd(product, _load(builder, added, column, dtype))
            _store(builder, total, data, place, dtype)
        return context.get_dummy_value()

    return types.void(x, types.int64, types.int64, types.float32, bias), codegen

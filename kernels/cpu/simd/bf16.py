"""What an encoder computes between its products, on rows of bfloat16, in LLVM IR: 16 numbers at a time.

numba has no bfloat16, and LLVM did not vectorise the same loops written for numba: they took 2.5 times as long as
PyTorch's operators. bfloat16 numbers are passed as their bits in uint16; arithmetic is in float32, and each result is
rounded once.
"""

import math
from collections.abc import Callable

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .llvm import I16, I32, I64, data_pointer, load_vector, spread, store_vector, vector_type

LANES = 16
_FLOATS, _INTS, _BITS = vector_type(ir.FloatType(), LANES), vector_type(I32, LANES), vector_type(I16, LANES)
# Products and sums may be one instruction.
_FMA = ("contract",)
# Coefficients of 2^x between -0.5 and 0.5, from the highest: ln(2)^i / i!. The relative error is 4e-5, and half of the
# last bit of bfloat16 is 2e-3.
_EXP2 = [math.log(2) ** i / math.factorial(i) for i in range(4, -1, -1)]
# The normal distribution's tail by erf of Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26, from the
# highest: the error is below 1e-7.
_P = 0.3275911 / math.sqrt(2)
_TAIL = [a / 2 for a in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592, 0.0)]


def _all(number: float) -> ir.Constant:
    return ir.Constant(_FLOATS, [number] * LANES)


def _ints(number: int) -> ir.Constant:
    return ir.Constant(_INTS, [number] * LANES)


def widen(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """bfloat16 to float32."""
    return builder.bitcast(builder.shl(builder.zext(bits, _INTS), _ints(16)), _FLOATS)


def narrow(builder: ir.IRBuilder, numbers: ir.Value) -> ir.Value:
    """Finite float32 to bfloat16, to the nearest, ties to even."""
    bits = builder.bitcast(numbers, _INTS)
    odd = builder.and_(builder.lshr(bits, _ints(16)), _ints(1))
    rounded = builder.add(builder.add(bits, _ints(0x7FFF)), odd)
    return builder.trunc(builder.lshr(rounded, _ints(16)), _BITS)


def _polynomial(builder: ir.IRBuilder, x: ir.Value, coefficients: list[float]) -> ir.Value:
    total: ir.Value = _all(coefficients[0])
    for coefficient in coefficients[1:]:
        total = builder.fadd(builder.fmul(total, x, flags=_FMA), _all(coefficient), flags=_FMA)
    return total


def exp(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """e^x for x of at most 0; not below 2^-126. NaN stays NaN."""
    y = builder.fmul(x, _all(math.log2(math.e)))
    y = builder.select(builder.fcmp_ordered("<", y, _all(-126.0)), _all(-126.0), y)
    whole = builder.fptosi(builder.fsub(y, _all(0.5)), _INTS)  # towards 0, and y is not positive
    power = _polynomial(builder, builder.fsub(y, builder.sitofp(whole, _FLOATS)), _EXP2)
    scale = builder.bitcast(builder.shl(builder.add(whole, _ints(127)), _ints(23)), _FLOATS)
    return builder.fmul(power, scale)


def _larger(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _reduce(builder: ir.IRBuilder, values: ir.Value, join: Callable[[ir.Value, ir.Value], ir.Value]) -> ir.Value:
    """Join all lanes, in a fixed order."""
    undefined, width = ir.Constant(_FLOATS, ir.Undefined), LANES
    while width > 1:
        width //= 2
        upper = [(lane + width) % LANES for lane in range(LANES)]
        values = join(values, builder.shuffle_vector(values, undefined, ir.Constant(_INTS, upper)))
    return builder.extract_element(values, ir.Constant(I32, 0))


@intrinsic
def softmax_row(typingctx, scores, start, width, first, last, scale, exponentials):  # type: ignore[no-untyped-def]
    """Turn the scores of a row into weights in place: the softmax over columns `first` … `last`, and 0 elsewhere.

    Arguments: `scores` uint16 flat, the row from `start`; `width` its columns, a multiple of LANES; `first` < `last`;
    `scale` float32, by which scores are multiplied; `exponentials` (width,) float32, for work.
    """

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data = data_pointer(context, builder, signature.args[0], args[0])
        work = data_pointer(context, builder, signature.args[6], args[6])
        _, start, width, first, last, scale, _ = args
        lanes, step = ir.Constant(I64, LANES), ir.Constant(_INTS, list(range(LANES)))
        before = builder.and_(first, ir.Constant(I64, -LANES))
        after = builder.and_(builder.add(last, ir.Constant(I64, LANES - 1)), ir.Constant(I64, -LANES))
        low, high = (spread(builder, builder.trunc(x, I32), LANES) for x in (first, last))
        scales = spread(builder, scale, LANES)
        state = cgutils.alloca_once(builder, _FLOATS)

        def blocks(begin: ir.Value, end: ir.Value):  # type: ignore[no-untyped-def]
            return cgutils.for_range_slice(builder, begin, end, lanes)

        def only_inside(column: ir.Value, values: ir.Value, outside: float) -> ir.Value:
            columns = builder.add(spread(builder, builder.trunc(column, I32), LANES), step)
            inside = builder.and_(builder.icmp_signed(">=", columns, low), builder.icmp_signed("<", columns, high))
            return builder.select(inside, values, _all(outside))

        def row(column: ir.Value) -> ir.Value:
            return widen(builder, load_vector(builder, data, builder.add(start, column), _BITS))

        def write(column: ir.Value, bits: ir.Value) -> None:
            store_vector(builder, bits, data, builder.add(start, column))

        builder.store(_all(-math.inf), state)
        with blocks(before, after) as (column, _):
            seen = only_inside(column, row(column), -math.inf)
            builder.store(_larger(builder, builder.load(state), seen), state)
        largest = _reduce(builder, builder.load(state), lambda a, b: _larger(builder, a, b))
        largest = spread(builder, largest, LANES)
        builder.store(_all(0.0), state)
        with blocks(before, after) as (column, _):
            below = builder.fmul(builder.fsub(row(column), largest), scales)
            e = only_inside(column, exp(builder, only_inside(column, below, 0.0)), 0.0)
            store_vector(builder, e, work, column)
            builder.store(builder.fadd(builder.load(state), e), state)
        total = _reduce(builder, builder.load(state), lambda a, b: builder.fadd(a, b))
        inverse = spread(builder, builder.fdiv(ir.Constant(ir.FloatType(), 1.0), total), LANES)
        with blocks(before, after) as (column, _):
            write(column, narrow(builder, builder.fmul(load_vector(builder, work, column, _FLOATS), inverse)))
        nothing = ir.Constant(_BITS, [0] * LANES)
        for begin, end in ((ir.Constant(I64, 0), before), (after, width)):
            with blocks(begin, end) as (column, _):
                write(column, nothing)
        return context.get_dummy_value()

    signature = types.void(scores, types.int64, types.int64, types.int64, types.int64, types.float32, exponentials)
    return signature, codegen


@intrinsic
def gated_gelu_16(typingctx, values, start, gate, out, out_start):  # type: ignore[no-untyped-def]
    """16 numbers of `out`, from `out_start`: GELU of `values[start:]` times `values[gate:]`; all uint16 and flat."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data = data_pointer(context, builder, signature.args[0], args[0])
        target = data_pointer(context, builder, signature.args[3], args[3])
        x, g = (widen(builder, load_vector(builder, data, index, _BITS)) for index in (args[1], args[2]))
        bits = builder.and_(builder.bitcast(x, _INTS), _ints(0x7FFFFFFF))
        distance = builder.bitcast(bits, _FLOATS)
        t = builder.fdiv(_all(1.0), builder.fadd(builder.fmul(distance, _all(_P), flags=_FMA), _all(1.0), flags=_FMA))
        half_square = builder.fmul(builder.fmul(x, x), _all(-0.5))
        tail = builder.fmul(_polynomial(builder, t, _TAIL), exp(builder, half_square))
        is_negative = builder.fcmp_ordered("<", x, _all(0.0))
        below = builder.select(is_negative, tail, builder.fsub(_all(1.0), tail))
        y = builder.fmul(builder.fmul(x, below), g)
        store_vector(builder, narrow(builder, y), target, args[4])
        return context.get_dummy_value()

    return types.void(values, types.int64, types.int64, out, types.int64), codegen


@intrinsic
def rotate_16(typingctx, x, start, half, cos, sin, angle, out, out_start):  # type: ignore[no-untyped-def]
    """Turn 16 pairs, `x[start:]` and `x[start + half:]`, by angles whose cosines begin at `cos[angle]`; to `out`.

    Arguments: `x` and `out` uint16 flat; `cos` and `sin` float32 flat.
    """

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        arrays = signature.args
        data, cosines, sines, target = (data_pointer(context, builder, arrays[i], args[i]) for i in (0, 3, 4, 6))
        first, second = (
            widen(builder, load_vector(builder, data, index, _BITS))
            for index in (args[1], builder.add(args[1], args[2]))
        )
        c, s = (load_vector(builder, table, args[5], _FLOATS) for table in (cosines, sines))
        turned = builder.fsub(builder.fmul(first, c, flags=_FMA), builder.fmul(second, s, flags=_FMA), flags=_FMA)
        store_vector(builder, narrow(builder, turned), target, args[7])
        turned = builder.fadd(builder.fmul(second, c, flags=_FMA), builder.fmul(first, s, flags=_FMA), flags=_FMA)
        store_vector(builder, narrow(builder, turned), target, builder.add(args[7], args[2]))
        return context.get_dummy_value()

    i = types.int64
    return types.void(x, i, i, cos, sin, i, out, i), codegen


@intrinsic
def copy_16(typingctx, x, start, out, out_start):  # type: ignore[no-untyped-def]
    """Copy 16 numbers, `x[start:]`, to `out[out_start:]`; both uint16 and flat."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data, target = (data_pointer(context, builder, signature.args[i], args[i]) for i in (0, 2))
        store_vector(builder, load_vector(builder, data, args[1], _BITS), target, args[3])
        return context.get_dummy_value()

    return types.void(x, types.int64, out, types.int64), codegen

"""Products of document tokens and query tokens in LLVM IR: in bytes, with maxima of scores, and in float32.

An instruction multiplies 64 bytes where the processor has AVX-512 VNNI, 32 with AVX2, and 16 with Arm's dot product;
other processors multiply pairs of 16-bit numbers. All give the same integers: a token's bytes have 7 bits, so AVX2's
16-bit sums of two products cannot saturate.

Legend: a block is COLUMNS query tokens; a group is 4 dimensions, which one lane multiplies and adds at once.
"""

from collections.abc import Callable

import llvmlite.binding
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from .llvm import (
    COLUMNS,
    I8,
    I16,
    I32,
    I64,
    ROWS,
    byte_pointer,
    call,
    cpu_features,
    data_pointer,
    load_vector,
    spread,
    store_vector,
    vector_type,
)

# Each of the next four functions adds, lane by lane, the products of 4 token bytes (0 … 127) and 4 query bytes
# (-127 … 127) to 32-bit sums. Token and query bytes are vectors of bytes.


def _vnni_512(builder: ir.IRBuilder, total: ir.Value, token: ir.Value, query: ir.Value) -> ir.Value:
    if llvmlite.binding.llvm_version_info < (22, 0, 0):  # older versions take vectors of int32
        token, query = (builder.bitcast(bytes_, total.type) for bytes_ in (token, query))
    return call(builder, "llvm.x86.avx512.vpdpbusd.512", total.type, total, token, query)


def _avx2(builder: ir.IRBuilder, total: ir.Value, token: ir.Value, query: ir.Value) -> ir.Value:
    pairs = call(builder, "llvm.x86.avx2.pmadd.ub.sw", vector_type(I16, 16), token, query)
    ones = ir.Constant(vector_type(I16, 16), [1] * 16)
    return builder.add(total, call(builder, "llvm.x86.avx2.pmadd.wd", vector_type(I32, 8), pairs, ones))


def _arm_dot(builder: ir.IRBuilder, total: ir.Value, token: ir.Value, query: ir.Value) -> ir.Value:
    return call(builder, "llvm.aarch64.neon.sdot.v4i32.v16i8", total.type, total, token, query)


def _plain(builder: ir.IRBuilder, total: ir.Value, token: ir.Value, query: ir.Value) -> ir.Value:
    """For processors without such an instruction: pairs of 16-bit products, summed twice."""
    shorts = vector_type(I16, 16)
    token, query = builder.zext(token, shorts), builder.sext(query, shorts)

    def every_second(values: ir.Value, first: int, count: int) -> ir.Value:
        lanes = ir.Constant(vector_type(I32, count), list(range(first, 2 * count, 2)))
        return builder.shuffle_vector(values, ir.Constant(values.type, ir.Undefined), lanes)

    def product(first: int) -> ir.Value:
        factors = (builder.sext(every_second(factor, first, 8), vector_type(I32, 8)) for factor in (token, query))
        return builder.mul(*factors)

    pairs = builder.add(product(0), product(1))
    return builder.add(total, builder.add(every_second(pairs, 0, 4), every_second(pairs, 1, 4)))


# Feature of the processor -> bytes of a register, rows whose sums fit the registers, and the function that multiplies.
_PATHS: dict[str, tuple[int, int, Callable[..., ir.Value]]] = {
    "avx512vnni": (64, 4, _vnni_512),
    "avx2": (32, 2, _avx2),
    "dotprod": (16, 2, _arm_dot),
    "": (16, 1, _plain),
}
PATH = next(name for name in _PATHS if not name or name in cpu_features())


def emit_dot_rows(
    builder: ir.IRBuilder,
    path: str,
    tokens: ir.Value,  # int8*, the first row
    stride: ir.Value,  # int64, bytes from a row to the next
    groups: ir.Value,  # int64
    queries: ir.Value,  # int8*, (groups, COLUMNS, 4)
) -> list[list[ir.Value]]:
    """The products of ROWS tokens and COLUMNS query tokens, by one of `_PATHS`: for each row, vectors of int32."""
    width, rows_at_once, multiply = _PATHS[path]
    lanes, vectors = width // 4, COLUMNS * 4 // width
    sums, bytes_ = vector_type(I32, lanes), vector_type(I8, width)
    zero, one, no_sums = ir.Constant(I64, 0), ir.Constant(I64, 1), ir.Constant(sums, None)
    results: list[list[ir.Value]] = []
    for first in range(0, ROWS, rows_at_once):
        starts = [
            builder.gep(tokens, [builder.mul(stride, ir.Constant(I64, first + row))]) for row in range(rows_at_once)
        ]
        before, loop, after = builder.block, builder.append_basic_block("group"), builder.append_basic_block("done")
        builder.cbranch(builder.icmp_signed(">", groups, zero), loop, after)
        builder.position_at_end(loop)
        group = builder.phi(I64)
        group.add_incoming(zero, before)
        totals = [[builder.phi(sums) for _ in range(vectors)] for _ in range(rows_at_once)]
        offset = builder.mul(group, ir.Constant(I64, 4))
        four_bytes = [
            builder.load(builder.bitcast(builder.gep(start, [offset]), I32.as_pointer()), align=1) for start in starts
        ]
        tokens_spread = [builder.bitcast(spread(builder, value, lanes), bytes_) for value in four_bytes]
        base = builder.mul(group, ir.Constant(I64, COLUMNS * 4))
        query = [
            load_vector(builder, queries, builder.add(base, ir.Constant(I64, v * width)), bytes_)
            for v in range(vectors)
        ]
        added = [
            [multiply(builder, totals[row][v], tokens_spread[row], query[v]) for v in range(vectors)]
            for row in range(rows_at_once)
        ]
        following = builder.add(group, one)
        builder.cbranch(builder.icmp_signed("<", following, groups), loop, after)
        group.add_incoming(following, loop)
        builder.position_at_end(after)
        for row in range(rows_at_once):
            results.append([])
            for total, new in zip(totals[row], added[row]):
                total.add_incoming(no_sums, before)
                total.add_incoming(new, loop)
                result = builder.phi(sums)
                result.add_incoming(no_sums, before)
                result.add_incoming(new, loop)
                results[-1].append(result)
    return results


@intrinsic
def dot_rows(typingctx, tokens, start, stride, groups, queries, query_start, out):  # type: ignore[no-untyped-def]
    """Products of ROWS document tokens and COLUMNS query tokens.

    Arguments: `tokens` uint8 flat, row r being the 4 · `groups` bytes (each at most 127) from `start` + r · `stride`;
    `queries` int8 flat, with the block (groups, COLUMNS, 4) from `query_start`; `out` (ROWS · COLUMNS,) int32.
    """

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        arrays = signature.args
        first = byte_pointer(context, builder, arrays[0], args[0], args[1])
        block = byte_pointer(context, builder, arrays[4], args[4], args[5])
        sums = data_pointer(context, builder, arrays[6], args[6])
        for row, vectors in enumerate(emit_dot_rows(builder, PATH, first, args[2], args[3], block)):
            for v, products in enumerate(vectors):
                store_vector(builder, products, sums, ir.Constant(I64, row * COLUMNS + v * products.type.count))
        return context.get_dummy_value()

    size = types.int64
    return types.void(tokens, size, size, size, queries, size, out), codegen


@intrinsic
def raise_best(  # type: ignore[no-untyped-def]
    typingctx,
    tokens,
    start,
    stride,
    groups,
    queries,
    query_start,
    table,
    rows,
    unit,
    norms,
    factors,
    shifts,
    factors_start,
    best,
):
    """best[j] = the largest of best[j] and, of each row r, (table[rows[r] + j] · unit + residual) · norms[r], where
    residual = product[r, j] · factors[j] + shifts[j].

    Arguments: as for `dot_rows`, whose products these are; `table` int16 flat; `rows` a tuple of ROWS int64 and `norms`
    one of float32; `unit` float32; `factors` and `shifts` float32 from `factors_start`; `best` (COLUMNS,) float32.
    """

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        arrays = signature.args
        first = byte_pointer(context, builder, arrays[0], args[0], args[1])
        block = byte_pointer(context, builder, arrays[4], args[4], args[5])
        table_data, factor_data, shift_data, best_data = (
            data_pointer(context, builder, arrays[i], args[i]) for i in (6, 10, 11, 13)
        )
        products = emit_dot_rows(builder, PATH, first, args[2], args[3], block)
        lanes = products[0][0].type.count
        floats = vector_type(ir.FloatType(), lanes)
        unit = spread(builder, args[8], lanes)
        norms = [spread(builder, builder.extract_value(args[9], row), lanes) for row in range(ROWS)]
        for v in range(COLUMNS // lanes):
            column = ir.Constant(I64, v * lanes)
            factor, shift = (
                load_vector(builder, d, builder.add(args[12], column), floats) for d in (factor_data, shift_data)
            )
            highest = load_vector(builder, best_data, column, floats)
            for row in range(ROWS):
                entry = builder.add(builder.extract_value(args[7], row), column)
                centroid = builder.sitofp(load_vector(builder, table_data, entry, vector_type(I16, lanes)), floats)
                residual = builder.fadd(builder.fmul(builder.sitofp(products[row][v], floats), factor), shift)
                score = builder.fmul(builder.fadd(builder.fmul(centroid, unit), residual), norms[row])
                highest = builder.select(builder.fcmp_ordered(">", score, highest), score, highest)
            store_vector(builder, highest, best_data, column)
        return context.get_dummy_value()

    size, real = types.int64, types.float32
    entries, scales = types.containers.UniTuple(size, ROWS), types.containers.UniTuple(real, ROWS)
    signature = types.void(
        tokens, size, size, size, queries, size, table, entries, real, scales, factors, shifts, size, best
    )
    return signature, codegen


@intrinsic
def raise_best_float(typingctx, tokens, start, dim, queries, query_start, best, best_start):  # type: ignore
    """best[j] = max over r of best[j] and the product of token r and query token j, in float32.

    Arguments: `tokens` float32 flat, ROWS rows of `dim` from `start`; `queries` float32 flat, with the block
    (dim, COLUMNS) from `query_start`; `best` float32, COLUMNS of it from `best_start`.
    """

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        arrays, lanes = signature.args, 16
        floats, vectors = vector_type(ir.FloatType(), lanes), COLUMNS // lanes
        token_data, query_data, best_data = (data_pointer(context, builder, arrays[i], args[i]) for i in (0, 3, 5))
        zero, one, no_sums = ir.Constant(I64, 0), ir.Constant(I64, 1), ir.Constant(floats, None)
        before, loop, after = builder.block, builder.append_basic_block("dimension"), builder.append_basic_block("done")
        builder.cbranch(builder.icmp_signed(">", args[2], zero), loop, after)
        builder.position_at_end(loop)
        e = builder.phi(I64)
        e.add_incoming(zero, before)
        totals = [[builder.phi(floats) for _ in range(vectors)] for _ in range(ROWS)]
        base = builder.add(args[4], builder.mul(e, ir.Constant(I64, COLUMNS)))
        query = [
            load_vector(builder, query_data, builder.add(base, ir.Constant(I64, v * lanes)), floats)
            for v in range(vectors)
        ]
        first = builder.add(args[1], e)
        added = []
        for row in range(ROWS):
            element = builder.add(first, builder.mul(args[2], ir.Constant(I64, row)))
            token = spread(builder, builder.load(builder.gep(token_data, [element])), lanes)
            added.append(
                [call(builder, "llvm.fmuladd.v16f32", floats, token, query[v], totals[row][v]) for v in range(vectors)]
            )
        following = builder.add(e, one)
        builder.cbranch(builder.icmp_signed("<", following, args[2]), loop, after)
        e.add_incoming(following, loop)
        builder.position_at_end(after)
        results = [[builder.phi(floats) for _ in range(vectors)] for _ in range(ROWS)]
        for row in range(ROWS):
            for total, new, result in zip(totals[row], added[row], results[row]):
                for sum_ in (total, result):
                    sum_.add_incoming(no_sums, before)
                    sum_.add_incoming(new, loop)
        for v in range(vectors):
            column = builder.add(args[6], ir.Constant(I64, v * lanes))
            highest = load_vector(builder, best_data, column, floats)
            for row in range(ROWS):
                score = results[row][v]
                highest = builder.select(builder.fcmp_ordered(">", score, highest), score, highest)
            store_vector(builder, highest, best_data, column)
        return context.get_dummy_value()

    size = types.int64
    return types.void(tokens, size, size, queries, size, best, size), codegen

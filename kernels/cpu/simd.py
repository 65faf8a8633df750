"""The inner loops of the CPU search that a compiler does not find by itself, written as LLVM vectors for numba.

`dot_rows` multiplies bytes, 64 at an instruction where the processor can (AVX-512 VNNI), or 32 (AVX2), or 16 (Arm's
dot product); others multiply pairs of 16 bits. All of them give the same integers: tokens have 7 bits, so that
AVX2's 16-bit sums of two products cannot saturate. Nobody needs a C compiler: numba brings LLVM along. The choice
follows the processor that numba compiles for, so NUMBA_CPU_NAME and NUMBA_CPU_FEATURES change both.

`decode_16` turns packed codes into bytes, 16 codes at an instruction, which looks them up in a table in a register.
`max_rows` is the same everywhere: what matters is that the maxima stay in registers from one token to the next.

Legend: a block is COLUMNS query tokens; a group is 4 dimensions, which one lane multiplies and adds up at once.
"""

from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

# Query tokens that are scored at once, and document tokens.
COLUMNS = 32
ROWS = 4

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


def cpu_features() -> set[str]:
    """What the processor that numba compiles for can do, by LLVM's names."""
    if numba.config.CPU_NAME or numba.config.CPU_FEATURES is not None:
        return {f[1:] for f in (numba.config.CPU_FEATURES or "").split(",") if f.startswith("+")}
    return {name for name, there in llvmlite.binding.get_host_cpu_features().items() if there}


def _vector(element: ir.Type, count: int) -> ir.VectorType:
    return ir.VectorType(element, count)


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, *arguments: ir.Value) -> ir.Value:
    function = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), arguments)


# Each adds, lane by lane, the products of 4 token bytes (0 … 127) and 4 query bytes (-127 … 127) to 32-bit sums.
# Token and query bytes come as vectors of bytes.


def _vnni_512(builder: ir.IRBuilder, total: ir.Value, token: ir.Value, query: ir.Value) -> ir.Value:
    if llvmlite.binding.llvm_version_info < (22, 0, 0):  # the intrinsic took vectors of int32 before
        token, query = (builder.bitcast(bytes_, total.type) for bytes_ in (token, query))
    return _call(builder, "llvm.x86.avx512.vpdpbusd.512", total.type, total, token, query)


def _avx2(builder: ir.IRBuilder, total: ir.Value, token: ir.Value, query: ir.Value) -> ir.Value:
    pairs = _call(builder, "llvm.x86.avx2.pmadd.ub.sw", _vector(_I16, 16), token, query)
    ones = ir.Constant(_vector(_I16, 16), [1] * 16)
    return builder.add(total, _call(builder, "llvm.x86.avx2.pmadd.wd", _vector(_I32, 8), pairs, ones))


def _arm_dot(builder: ir.IRBuilder, total: ir.Value, token: ir.Value, query: ir.Value) -> ir.Value:
    return _call(builder, "llvm.aarch64.neon.sdot.v4i32.v16i8", total.type, total, token, query)


def _plain(builder: ir.IRBuilder, total: ir.Value, token: ir.Value, query: ir.Value) -> ir.Value:
    """Without an instruction of its own: pairs of 16-bit products, which most processors have, summed twice."""
    shorts = _vector(_I16, 16)
    token, query = builder.zext(token, shorts), builder.sext(query, shorts)

    def every_second(vector: ir.Value, first: int, count: int) -> ir.Value:
        places = ir.Constant(_vector(_I32, count), list(range(first, 2 * count, 2)))
        return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), places)

    def product(first: int) -> ir.Value:
        factors = (builder.sext(every_second(factor, first, 8), _vector(_I32, 8)) for factor in (token, query))
        return builder.mul(*factors)

    pairs = builder.add(product(0), product(1))
    return builder.add(total, builder.add(every_second(pairs, 0, 4), every_second(pairs, 1, 4)))


# What the processor must have -> the bytes of a register, rows whose sums fit the registers, and the multiplication.
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
    sums, bytes_ = _vector(_I32, lanes), _vector(_I8, width)
    zero, one, nothing = ir.Constant(_I64, 0), ir.Constant(_I64, 1), ir.Constant(sums, None)
    results: list[list[ir.Value]] = []
    for first in range(0, ROWS, rows_at_once):
        starts = [
            builder.gep(tokens, [builder.mul(stride, ir.Constant(_I64, first + row))]) for row in range(rows_at_once)
        ]
        before, loop, after = builder.block, builder.append_basic_block("group"), builder.append_basic_block("done")
        builder.cbranch(builder.icmp_signed(">", groups, zero), loop, after)
        builder.position_at_end(loop)
        group = builder.phi(_I64)
        group.add_incoming(zero, before)
        totals = [[builder.phi(sums) for _ in range(vectors)] for _ in range(rows_at_once)]
        offset = builder.mul(group, ir.Constant(_I64, 4))
        four = [
            builder.load(builder.bitcast(builder.gep(start, [offset]), _I32.as_pointer()), align=1) for start in starts
        ]
        spread = [builder.bitcast(_spread(builder, value, lanes), bytes_) for value in four]
        base = builder.mul(group, ir.Constant(_I64, COLUMNS * 4))
        query = [
            _load(builder, queries, builder.add(base, ir.Constant(_I64, v * width)), bytes_) for v in range(vectors)
        ]
        added = [
            [multiply(builder, totals[row][v], spread[row], query[v]) for v in range(vectors)]
            for row in range(rows_at_once)
        ]
        following = builder.add(group, one)
        builder.cbranch(builder.icmp_signed("<", following, groups), loop, after)
        group.add_incoming(following, loop)
        builder.position_at_end(after)
        for row in range(rows_at_once):
            results.append([])
            for total, new in zip(totals[row], added[row]):
                total.add_incoming(nothing, before)
                total.add_incoming(new, loop)
                result = builder.phi(sums)
                result.add_incoming(nothing, before)
                result.add_incoming(new, loop)
                results[-1].append(result)
    return results


def _load(builder: ir.IRBuilder, data: ir.Value, place: ir.Value, vector: ir.VectorType) -> ir.Value:
    """A vector from an array whose elements need not be the vector's; `place` counts in the array's."""
    return builder.load(builder.bitcast(builder.gep(data, [place]), vector.as_pointer()), align=1)


def _store(builder: ir.IRBuilder, vector: ir.Value, data: ir.Value, place: ir.Value) -> None:
    builder.store(vector, builder.bitcast(builder.gep(data, [place]), vector.type.as_pointer()), align=1)


def _spread(builder: ir.IRBuilder, value: ir.Value, lanes: int) -> ir.Value:
    """A vector with the same number in every lane."""
    undefined = ir.Constant(_vector(value.type, lanes), ir.Undefined)
    alone = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(alone, undefined, ir.Constant(_vector(_I32, lanes), [0] * lanes))


def _data(context: Any, builder: ir.IRBuilder, array: types.Array, value: ir.Value) -> ir.Value:
    return context.make_array(array)(context, builder, value).data


def _pointer(context: Any, builder: ir.IRBuilder, array: types.Array, value: ir.Value, start: ir.Value) -> ir.Value:
    return builder.bitcast(builder.gep(_data(context, builder, array, value), [start]), _I8.as_pointer())


@intrinsic
def dot_rows(typingctx, tokens, start, stride, groups, queries, query_start, out):  # type: ignore[no-untyped-def]
    """Products of ROWS document tokens and COLUMNS query tokens.

    Arguments: `tokens` uint8 flat, row r being the 4 · `groups` bytes (each at most 127) from `start` + r · `stride`;
    `queries` int8 flat, with the block (groups, COLUMNS, 4) from `query_start`; `out` (ROWS · COLUMNS,) int32.
    """

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        arrays = signature.args
        first = _pointer(context, builder, arrays[0], args[0], args[1])
        block = _pointer(context, builder, arrays[4], args[4], args[5])
        sums = _data(context, builder, arrays[6], args[6])
        for row, vectors in enumerate(emit_dot_rows(builder, PATH, first, args[2], args[3], block)):
            for v, vector in enumerate(vectors):
                _store(builder, vector, sums, ir.Constant(_I64, row * COLUMNS + v * vector.type.count))
        return context.get_dummy_value()

    size = types.int64
    return types.void(tokens, size, size, size, queries, size, out), codegen


@intrinsic
def raise_best(  # type: ignore[no-untyped-def]
    typingctx, tokens, start, stride, groups, queries, query_start, table, rows, unit, norms, factors, shifts, at, best
):
    """best[j] = the largest of best[j] and, of each row r, (table[rows[r] + j] · unit + residual) · norms[r], where
    residual = product[r, j] · factors[j] + shifts[j].

    Arguments: as for `dot_rows`, whose products these are; `table` int16 flat; `rows` a tuple of ROWS int64 and `norms`
    one of float32; `unit` float32; `factors` and `shifts` float32 from `at`; `best` (COLUMNS,) float32.
    """

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        arrays = signature.args
        first = _pointer(context, builder, arrays[0], args[0], args[1])
        block = _pointer(context, builder, arrays[4], args[4], args[5])
        table_data, factor_data, shift_data, best_data = (
            _data(context, builder, arrays[i], args[i]) for i in (6, 10, 11, 13)
        )
        products = emit_dot_rows(builder, PATH, first, args[2], args[3], block)
        lanes = products[0][0].type.count
        floats = _vector(ir.FloatType(), lanes)
        unit = _spread(builder, args[8], lanes)
        norms = [_spread(builder, builder.extract_value(args[9], row), lanes) for row in range(ROWS)]
        for v in range(COLUMNS // lanes):
            column = ir.Constant(_I64, v * lanes)
            factor, shift = (
                _load(builder, d, builder.add(args[12], column), floats) for d in (factor_data, shift_data)
            )
            highest = _load(builder, best_data, column, floats)
            for row in range(ROWS):
                place = builder.add(builder.extract_value(args[7], row), column)
                centroid = builder.sitofp(_load(builder, table_data, place, _vector(_I16, lanes)), floats)
                residual = builder.fadd(builder.fmul(builder.sitofp(products[row][v], floats), factor), shift)
                score = builder.fmul(builder.fadd(builder.fmul(centroid, unit), residual), norms[row])
                highest = builder.select(builder.fcmp_ordered(">", score, highest), score, highest)
            _store(builder, highest, best_data, column)
        return context.get_dummy_value()

    size, real = types.int64, types.float32
    places, scales = types.containers.UniTuple(size, ROWS), types.containers.UniTuple(real, ROWS)
    signature = types.void(
        tokens, size, size, size, queries, size, table, places, real, scales, factors, shifts, size, best
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
        floats, vectors = _vector(ir.FloatType(), lanes), COLUMNS // lanes
        token_data, query_data, best_data = (_data(context, builder, arrays[i], args[i]) for i in (0, 3, 5))
        zero, one, nothing = ir.Constant(_I64, 0), ir.Constant(_I64, 1), ir.Constant(floats, None)
        before, loop, after = builder.block, builder.append_basic_block("dimension"), builder.append_basic_block("done")
        builder.cbranch(builder.icmp_signed(">", args[2], zero), loop, after)
        builder.position_at_end(loop)
        e = builder.phi(_I64)
        e.add_incoming(zero, before)
        totals = [[builder.phi(floats) for _ in range(vectors)] for _ in range(ROWS)]
        base = builder.add(args[4], builder.mul(e, ir.Constant(_I64, COLUMNS)))
        query = [
            _load(builder, query_data, builder.add(base, ir.Constant(_I64, v * lanes)), floats) for v in range(vectors)
        ]
        first = builder.add(args[1], e)
        added = []
        for row in range(ROWS):
            place = builder.add(first, builder.mul(args[2], ir.Constant(_I64, row)))
            token = _spread(builder, builder.load(builder.gep(token_data, [place])), lanes)
            added.append(
                [_call(builder, "llvm.fmuladd.v16f32", floats, token, query[v], totals[row][v]) for v in range(vectors)]
            )
        following = builder.add(e, one)
        builder.cbranch(builder.icmp_signed("<", following, args[2]), loop, after)
        e.add_incoming(following, loop)
        builder.position_at_end(after)
        results = [[builder.phi(floats) for _ in range(vectors)] for _ in range(ROWS)]
        for row in range(ROWS):
            for total, new, result in zip(totals[row], added[row], results[row]):
                for sum_ in (total, result):
                    sum_.add_incoming(nothing, before)
                    sum_.add_incoming(new, loop)
        for v in range(vectors):
            place = builder.add(args[6], ir.Constant(_I64, v * lanes))
            highest = _load(builder, best_data, place, floats)
            for row in range(ROWS):
                score = results[row][v]
                highest = builder.select(builder.fcmp_ordered(">", score, highest), score, highest)
            _store(builder, highest, best_data, place)
        return context.get_dummy_value()

    size = types.int64
    return types.void(tokens, size, size, queries, size, best, size), codegen


# Each replaces 16 bytes below 16 by what stands at that place in a table of 16 bytes.


def _lookup_x86(builder: ir.IRBuilder, table: ir.Value, places: ir.Value) -> ir.Value:
    return _call(builder, "llvm.x86.ssse3.pshuf.b.128", table.type, table, places)


def _lookup_arm(builder: ir.IRBuilder, table: ir.Value, places: ir.Value) -> ir.Value:
    return _call(builder, "llvm.aarch64.neon.tbl1.v16i8", table.type, table, places)


def _lookup_plain(builder: ir.IRBuilder, table: ir.Value, places: ir.Value) -> ir.Value:
    """A tree of choices, a bit of the place at each level."""
    undefined, everywhere = ir.Constant(table.type, ir.Undefined), _vector(_I32, 16)
    chosen = [builder.shuffle_vector(table, undefined, ir.Constant(everywhere, [place] * 16)) for place in range(16)]
    for bit in range(4):
        of_bit = builder.and_(places, ir.Constant(table.type, [1 << bit] * 16))
        is_set = builder.icmp_unsigned("!=", of_bit, ir.Constant(table.type, None))
        chosen = [builder.select(is_set, odd, even) for even, odd in zip(chosen[::2], chosen[1::2])]
    return chosen[0]


_LOOKUPS = {"ssse3": _lookup_x86, "neon": _lookup_arm, "": _lookup_plain}
LOOKUP = next(name for name in _LOOKUPS if not name or name in cpu_features())


def emit_decode_16(
    builder: ir.IRBuilder,
    lookup: str,
    nbits: int,
    packed: ir.Value,  # int8*, 16 bytes of codes
    table: ir.Value,  # int8*, 16 bytes
    out: ir.Value,  # int8*, the first plane
    stride: ir.Value,  # int64, bytes from a plane to the next
) -> None:
    """The instructions of `decode_16`, for one of `_LOOKUPS`."""
    sixteen = _vector(_I8, 16)
    codes = builder.load(builder.bitcast(packed, sixteen.as_pointer()), align=1)
    levels = builder.load(builder.bitcast(table, sixteen.as_pointer()), align=1)
    for plane in range(8 // nbits):
        shifted = builder.lshr(codes, ir.Constant(sixteen, [8 - nbits * (plane + 1)] * 16))
        places = builder.and_(shifted, ir.Constant(sixteen, [(1 << nbits) - 1] * 16))
        target = builder.gep(out, [builder.mul(stride, ir.Constant(_I64, plane))])
        decoded = _LOOKUPS[lookup](builder, levels, places)
        builder.store(decoded, builder.bitcast(target, sixteen.as_pointer()), align=1)


@intrinsic(prefer_literal=True)
def decode_16(typingctx, nbits, packed, start, table, out, out_start, stride):  # type: ignore[no-untyped-def]
    """The bytes for 16 bytes of packed codes: the first code of each byte, then the second of each, …, `stride` apart.

    Arguments: `nbits` 1, 2 or 4, literally; `packed` uint8 flat, read from `start`; `table` (16,) uint8; `out` uint8
    flat, written from `out_start`.
    """
    bits = nbits.literal_value

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        arrays = signature.args
        codes = _pointer(context, builder, arrays[1], args[1], args[2])
        levels = _pointer(context, builder, arrays[3], args[3], ir.Constant(_I64, 0))
        planes = _pointer(context, builder, arrays[4], args[4], args[5])
        emit_decode_16(builder, LOOKUP, bits, codes, levels, planes, args[6])
        return context.get_dummy_value()

    size = types.int64
    return types.void(nbits, packed, size, table, out, size, size), codegen


@intrinsic
def prefetch(typingctx, array, place):  # type: ignore[no-untyped-def]
    """Start to load what stands at a place of a flat array into the cache."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data = _data(context, builder, signature.args[0], args[0])
        address = builder.bitcast(builder.gep(data, [args[1]]), _I8.as_pointer())
        name = "llvm.prefetch.p0" if llvmlite.binding.llvm_version_info >= (15, 0, 0) else "llvm.prefetch.p0i8"
        read, stay, data_cache = (ir.Constant(_I32, value) for value in (0, 3, 1))
        _call(builder, name, ir.VoidType(), address, read, stay, data_cache)
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


@intrinsic
def max_rows(typingctx, table, stride, column, codes, first, last, out):  # type: ignore[no-untyped-def]
    """The column-wise maxima of the rows `codes[first:last]` of a table, of COLUMNS columns from `column`.

    Arguments: `table` int8 flat with `stride` bytes a row; `codes` unsigned; `first` < `last`; `out` (COLUMNS,) int8.
    """

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        arrays = signature.args
        row = _vector(_I8, COLUMNS)
        base = _pointer(context, builder, arrays[0], args[0], args[2])
        codes_data = context.make_array(arrays[3])(context, builder, args[3]).data

        def load(t: ir.Value) -> ir.Value:
            code = builder.zext(builder.load(builder.gep(codes_data, [t])), _I64)
            place = builder.gep(base, [builder.mul(code, args[1])])
            return builder.load(builder.bitcast(place, row.as_pointer()), align=1)

        best = load(args[4])
        second = builder.add(args[4], ir.Constant(_I64, 1))
        before, loop, after = builder.block, builder.append_basic_block("token"), builder.append_basic_block("done")
        builder.cbranch(builder.icmp_signed("<", second, args[5]), loop, after)
        builder.position_at_end(loop)
        t, running = builder.phi(_I64), builder.phi(row)
        t.add_incoming(second, before)
        running.add_incoming(best, before)
        here = load(t)
        larger = builder.select(builder.icmp_signed(">", here, running), here, running)
        following = builder.add(t, ir.Constant(_I64, 1))
        t.add_incoming(following, loop)
        running.add_incoming(larger, loop)
        builder.cbranch(builder.icmp_signed("<", following, args[5]), loop, after)
        builder.position_at_end(after)
        result = builder.phi(row)
        result.add_incoming(best, before)
        result.add_incoming(larger, loop)
        place = _pointer(context, builder, arrays[6], args[6], ir.Constant(_I64, 0))
        builder.store(result, builder.bitcast(place, row.as_pointer()), align=1)
        return context.get_dummy_value()

    size = types.int64
    return types.void(table, size, size, codes, size, size, out), codegen

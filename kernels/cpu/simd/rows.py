"""Maxima over rows of a table in LLVM IR, and prefetching.

`max_rows` is the same on every processor: it is fast because the maxima stay in registers from one token to the next.
"""

import llvmlite.binding
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from .llvm import COLUMNS, I8, I32, I64, byte_pointer, call, data_pointer, vector_type


@intrinsic
def prefetch(typingctx, array, index):  # type: ignore[no-untyped-def]
    """Start to load `array[index]`, of a flat array, into the cache."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        array_data = data_pointer(context, builder, signature.args[0], args[0])
        address = builder.bitcast(builder.gep(array_data, [args[1]]), I8.as_pointer())
        name = "llvm.prefetch.p0" if llvmlite.binding.llvm_version_info >= (15, 0, 0) else "llvm.prefetch.p0i8"
        read, stay, data_cache = (ir.Constant(I32, value) for value in (0, 3, 1))
        call(builder, name, ir.VoidType(), address, read, stay, data_cache)
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


@intrinsic
def max_rows(typingctx, table, stride, column, codes, first, last, out):  # type: ignore[no-untyped-def]
    """The column-wise maxima of the rows `codes[first:last]` of a table, of COLUMNS columns from `column`.

    Arguments: `table` int8 flat with `stride` bytes a row; `codes` unsigned; `first` < `last`; `out` (COLUMNS,) int8.
    """

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        arrays = signature.args
        row = vector_type(I8, COLUMNS)
        base = byte_pointer(context, builder, arrays[0], args[0], args[2])
        codes_data = data_pointer(context, builder, arrays[3], args[3])

        def row_of_token(t: ir.Value) -> ir.Value:
            code = builder.zext(builder.load(builder.gep(codes_data, [t])), I64)
            address = builder.gep(base, [builder.mul(code, args[1])])
            return builder.load(builder.bitcast(address, row.as_pointer()), align=1)

        best = row_of_token(args[4])
        second = builder.add(args[4], ir.Constant(I64, 1))
        before, loop, after = builder.block, builder.append_basic_block("token"), builder.append_basic_block("done")
        builder.cbranch(builder.icmp_signed("<", second, args[5]), loop, after)
        builder.position_at_end(loop)
        t, running = builder.phi(I64), builder.phi(row)
        t.add_incoming(second, before)
        running.add_incoming(best, before)
        token_row = row_of_token(t)
        larger = builder.select(builder.icmp_signed(">", token_row, running), token_row, running)
        following = builder.add(t, ir.Constant(I64, 1))
        t.add_incoming(following, loop)
        running.add_incoming(larger, loop)
        builder.cbranch(builder.icmp_signed("<", following, args[5]), loop, after)
        builder.position_at_end(after)
        result = builder.phi(row)
        result.add_incoming(best, before)
        result.add_incoming(larger, loop)
        target = byte_pointer(context, builder, arrays[6], args[6], ir.Constant(I64, 0))
        builder.store(result, builder.bitcast(target, row.as_pointer()), align=1)
        return context.get_dummy_value()

    size = types.int64
    return types.void(table, size, size, codes, size, size, out), codegen

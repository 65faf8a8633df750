"""Scores of tokens from tables of products in LLVM IR: a row of each part's table, added up in registers.

It is the same on every processor: only loads and additions of 16-bit integers.
"""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from .llvm import COLUMNS, I8, I16, I32, I64, ROWS, data_pointer, load_vector, spread, store_vector, vector_type

# Rows of a part's table: the values of a byte.
_ENTRIES = 256
# Query tokens that are turned into floats at a time.
_LANES = 16


def _emit_sums(
    builder: ir.IRBuilder, tables: ir.Value, packed: ir.Value, places: list[ir.Value], num_parts: ir.Value
) -> list[ir.Value]:
    """For each of ROWS tokens the sum over its parts of a row of COLUMNS int16."""
    row = vector_type(I16, COLUMNS)
    zero, none = ir.Constant(I64, 0), ir.Constant(row, None)
    before, loop, after = builder.block, builder.append_basic_block("part"), builder.append_basic_block("summed")
    builder.cbranch(builder.icmp_signed(">", num_parts, zero), loop, after)
    builder.position_at_end(loop)
    part = builder.phi(I64)
    part.add_incoming(zero, before)
    totals = [builder.phi(row) for _ in range(ROWS)]
    first_entry = builder.mul(part, ir.Constant(I64, _ENTRIES))
    added = []
    for total, place in zip(totals, places):
        byte = builder.zext(builder.load(builder.gep(packed, [builder.add(place, part)])), I64)
        entry = builder.mul(builder.add(first_entry, byte), ir.Constant(I64, COLUMNS))
        added.append(builder.add(total, load_vector(builder, tables, entry, row)))
    following = builder.add(part, ir.Constant(I64, 1))
    part.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, num_parts), loop, after)
    builder.position_at_end(after)
    results = [builder.phi(row) for _ in range(ROWS)]
    for total, new, result in zip(totals, added, results):
        for sum_ in (total, result):
            sum_.add_incoming(none, before)
            sum_.add_incoming(new, loop)
    return results


@intrinsic
def raise_best_rows(  # type: ignore[no-untyped-def]
    typingctx,
    tables,
    tables_start,
    packed,
    places,
    num_parts,
    table,
    rows,
    unit,
    norms,
    factors,
    factors_start,
    best,
):
    """best[j] = the largest of best[j] and, of each token r, (table[rows[r] + j] · unit + residual) · norms[r], where
    residual = factors[j] · the sum over parts m of row[j], row 256 · m + packed[places[r] + m] of `tables`.

    Arguments: `tables` int16 flat, rows of COLUMNS from `tables_start`, such that no sum leaves int16; `packed` uint8
    flat; `places` a tuple of ROWS int64; `table` int16 flat; `rows` a tuple of ROWS int64 and `norms` one of float32;
    `unit` float32; `factors` float32 from `factors_start`; `best` (COLUMNS,) float32.
    """

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        arrays = signature.args
        entries, bytes_, table_data, factor_data, best_data = (
            data_pointer(context, builder, arrays[i], args[i]) for i in (0, 2, 5, 9, 11)
        )
        entries = builder.gep(entries, [args[1]])
        places = [builder.extract_value(args[3], row) for row in range(ROWS)]
        sums = _emit_sums(builder, entries, builder.bitcast(bytes_, I8.as_pointer()), places, args[4])
        floats = vector_type(ir.FloatType(), _LANES)
        unit = spread(builder, args[7], _LANES)
        norms = [spread(builder, builder.extract_value(args[8], row), _LANES) for row in range(ROWS)]
        for first in range(0, COLUMNS, _LANES):
            column = ir.Constant(I64, first)
            lanes = ir.Constant(vector_type(I32, _LANES), list(range(first, first + _LANES)))
            factor = load_vector(builder, factor_data, builder.add(args[10], column), floats)
            highest = load_vector(builder, best_data, column, floats)
            for row in range(ROWS):
                entry = builder.add(builder.extract_value(args[6], row), column)
                centroid = builder.sitofp(load_vector(builder, table_data, entry, vector_type(I16, _LANES)), floats)
                part = builder.shuffle_vector(sums[row], ir.Constant(sums[row].type, ir.Undefined), lanes)
                residual = builder.fmul(builder.sitofp(part, floats), factor)
                score = builder.fmul(builder.fadd(builder.fmul(centroid, unit), residual), norms[row])
                highest = builder.select(builder.fcmp_ordered(">", score, highest), score, highest)
            store_vector(builder, highest, best_data, column)
        return context.get_dummy_value()

    size, real = types.int64, types.float32
    numbers, scales = types.containers.UniTuple(size, ROWS), types.containers.UniTuple(real, ROWS)
    signature = types.void(tables, size, packed, numbers, size, table, numbers, real, scales, factors, size, best)
    return signature, codegen

"""The best of many rows for each of COLUMNS tokens, in LLVM IR: products and their maxima stay in registers."""

from collections.abc import Callable

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from .dot import PATH, emit_dot_rows
from .llvm import COLUMNS, I32, I64, ROWS, byte_pointer, data_pointer, load_vector, spread, store_vector, vector_type


def _insert(builder: ir.IRBuilder, best: list[ir.Value], key: ir.Value) -> None:
    """Insert a vector of keys into vectors that are sorted lane by lane, the highest first; the lowest are dropped."""
    for level, kept in enumerate(best):
        is_better = builder.icmp_signed(">", key, kept)
        best[level] = builder.select(is_better, key, kept)
        key = builder.select(is_better, kept, key)


def _keep_best(num_kept: int) -> Callable[..., None]:
    """The intrinsic that keeps `num_kept` rows for each token."""

    def keep_best(  # type: ignore[no-untyped-def]
        typingctx, rows, start, stride, groups, tokens, scales, biases, first_bias, row, count, shift, place_mask, kept
    ):
        """Compare ROWS rows with COLUMNS tokens, and keep the keys of the best rows so far.

        The score of a row is its product with the token, and the row's bias times the token's scale, rounded to zero.
        The key is the score shifted to the left, with the row's number in the lowest bits: keys are in the order of the
        scores, up to the bits that the number replaces.

        Arguments: `rows` uint8 flat, row r being the 4 · `groups` bytes (each at most 127) from `start` + r · `stride`;
        `tokens` (groups · COLUMNS,) int32, of 4 int8 each; `scales` (COLUMNS,) float32; `biases` float32, from
        `first_bias` those of the rows; `row` the number of the first row, and rows from `count` on
        are left out; `shift` int64; `place_mask` int64, the bits of a number; `kept` (num_kept · COLUMNS,) int32, the
        keys of each token, the highest first.
        """

        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            arrays, zero = signature.args, ir.Constant(I64, 0)
            first = byte_pointer(context, builder, arrays[0], args[0], args[1])
            block = byte_pointer(context, builder, arrays[4], args[4], zero)
            scale_data, bias_data, kept_data = (data_pointer(context, builder, arrays[i], args[i]) for i in (5, 6, 12))
            products = emit_dot_rows(builder, PATH, first, args[2], args[3], block)
            lanes = products[0][0].type.count
            shift = spread(builder, builder.trunc(args[10], I32), lanes)
            product_mask = builder.not_(builder.trunc(args[11], I32))
            floats = vector_type(ir.FloatType(), lanes)
            masks, numbers, row_biases = [], [], []
            for r in range(ROWS):
                number = builder.add(args[8], ir.Constant(I64, r))
                exists = builder.icmp_signed("<", number, args[9])
                masks.append(spread(builder, builder.select(exists, product_mask, ir.Constant(I32, 0)), lanes))
                lowest = ir.Constant(I32, -(1 << 31))
                bias = builder.load(builder.gep(bias_data, [builder.add(args[7], ir.Constant(I64, r))]))
                row_biases.append(spread(builder, bias, lanes))
                numbers.append(spread(builder, builder.select(exists, builder.trunc(number, I32), lowest), lanes))
            for v in range(COLUMNS // lanes):
                places = [ir.Constant(I64, level * COLUMNS + v * lanes) for level in range(num_kept)]
                best = [load_vector(builder, kept_data, place, shift.type) for place in places]
                scale = load_vector(builder, scale_data, places[0], floats)
                for r in range(ROWS):
                    bias = builder.fptosi(builder.fmul(row_biases[r], scale), shift.type)
                    score = builder.shl(builder.add(products[r][v], bias), shift)
                    key = builder.or_(builder.and_(score, masks[r]), numbers[r])
                    _insert(builder, best, key)
                for level in range(num_kept):
                    store_vector(builder, best[level], kept_data, places[level])
            return context.get_dummy_value()

        size = types.int64
        signature = types.void(rows, size, size, size, tokens, scales, biases, size, size, size, size, size, kept)
        return signature, codegen

    result: Callable[..., None] = intrinsic(keep_best)
    return result


keep_best_2 = _keep_best(2)
keep_best_6 = _keep_best(6)

"""Packed codes to bytes in LLVM IR: an instruction looks up 16 codes in a table of 16 bytes in a register."""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from .llvm import I8, I32, I64, byte_pointer, call, cpu_features, vector_type

# Each of the next three functions reindices 16 indices below 16 by the bytes at these indices of a table of 16 bytes.


def _lookup_x86(builder: ir.IRBuilder, table: ir.Value, indices: ir.Value) -> ir.Value:
    return call(builder, "llvm.x86.ssse3.pshuf.b.128", table.type, table, indices)


def _lookup_arm(builder: ir.IRBuilder, table: ir.Value, indices: ir.Value) -> ir.Value:
    return call(builder, "llvm.aarch64.neon.tbl1.v16i8", table.type, table, indices)


def _lookup_plain(builder: ir.IRBuilder, table: ir.Value, indices: ir.Value) -> ir.Value:
    """A tree of choices; each level decides by one bit of the index."""
    undefined, everywhere = ir.Constant(table.type, ir.Undefined), vector_type(I32, 16)
    chosen = [builder.shuffle_vector(table, undefined, ir.Constant(everywhere, [index] * 16)) for index in range(16)]
    for bit in range(4):
        of_bit = builder.and_(indices, ir.Constant(table.type, [1 << bit] * 16))
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
    sixteen = vector_type(I8, 16)
    codes = builder.load(builder.bitcast(packed, sixteen.as_pointer()), align=1)
    levels = builder.load(builder.bitcast(table, sixteen.as_pointer()), align=1)
    for plane in range(8 // nbits):
        shifted = builder.lshr(codes, ir.Constant(sixteen, [8 - nbits * (plane + 1)] * 16))
        indices = builder.and_(shifted, ir.Constant(sixteen, [(1 << nbits) - 1] * 16))
        target = builder.gep(out, [builder.mul(stride, ir.Constant(I64, plane))])
        decoded = _LOOKUPS[lookup](builder, levels, indices)
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
        codes = byte_pointer(context, builder, arrays[1], args[1], args[2])
        levels = byte_pointer(context, builder, arrays[3], args[3], ir.Constant(I64, 0))
        planes = byte_pointer(context, builder, arrays[4], args[4], args[5])
        emit_decode_16(builder, LOOKUP, bits, codes, levels, planes, args[6])
        return context.get_dummy_value()

    size = types.int64
    return types.void(nbits, packed, size, table, out, size, size), codegen

"""Attention of an ONNX graph, in blocks of query positions: its memory grows with the length, not with its square.

A block's scores are all that exists of the scores at one time. ONNX's `Loop` goes over the blocks; its operators are
ONNX's own, so every runtime computes it. A block of a layer with a window sees only the keys in reach of the block.

Legend: B texts, L tokens of the longest, n blocks, C tokens of a block, P = n · C positions (at least L, with padding),
K keys that a block sees, H hidden size, h heads, d head dimension.
"""

from dataclasses import dataclass

from colbertz.models.onnx.graph import FLOAT, Graph

# Tokens of a block at most. Fewer make the products small, more make the scores large: 64 to 512 were equally fast.
_BLOCK = 128
# Added to the scores of keys that are not attended to. Far below every score and far from the end of float32: the sum
# of two, for padding and window, is still finite.
_MASKED = -1e9


@dataclass(frozen=True)
class Blocks:
    """What the attention of all layers shares, as names in the graph; `Blocks.of` makes it.

    Attributes:
        length: L.
        count: n.
        size: C.
        padding: P - L.
        within: (C, 1) float, 0 to C - 1.
        position: (P,) float, 0 to P - 1.
        positions: (B, P) integers, the same for every text.
        shape: n, B, h, C, d, of the results of all blocks.
        bias: (B, 1, 1, P), 0 for keys that are attended to, else far below every score.
    """

    length: str
    count: str
    size: str
    padding: str
    within: str
    position: str
    positions: str
    shape: str
    bias: str

    @classmethod
    def of(cls, graph: Graph) -> "Blocks":
        """Split the positions into as few blocks as the largest size allows, as equal as can be."""
        zero, one = graph.integer(0), graph.integer(1)
        length = graph.op("Gather", graph.op("Shape", "input_ids"), one)
        count = _divided_up(graph, length, graph.integer(_BLOCK))
        size = _divided_up(graph, length, count)
        num_positions = graph.op("Mul", count, size)
        padding = graph.op("Sub", num_positions, length)
        position = graph.op("Range", zero, num_positions, one)
        within = graph.op("Cast", graph.op("Range", zero, size, one), to=FLOAT)
        mask = _padded(graph, graph.op("Cast", "attention_mask", to=FLOAT), padding, axes=2)
        absent = graph.op("Sub", graph.scalar(1), mask)
        lengths = [graph.op("Unsqueeze", number, graph.integers(0)) for number in (count, size)]
        heads, dim = graph.integers(-1, graph.heads), graph.integers(graph.head_dim)
        return cls(
            length=length,
            count=count,
            size=size,
            padding=padding,
            within=graph.op("Unsqueeze", within, graph.integers(1)),
            position=graph.op("Cast", position, to=FLOAT),
            positions=graph.op("Expand", position, graph.op("Shape", mask)),
            shape=graph.op("Concat", lengths[0], heads, lengths[1], dim, axis=0),
            bias=graph.op("Unsqueeze", graph.op("Mul", absent, graph.scalar(_MASKED)), graph.integers(1, 2)),
        )


def pad(graph: Graph, blocks: Blocks, x: str) -> str:
    """(B, L, H) → (B, P, H), so that the positions fill the blocks."""
    return _padded(graph, x, blocks.padding, axes=3)


def unpad(graph: Graph, blocks: Blocks, x: str) -> str:
    """(B, P, H) → (B, L, H)."""
    return _slice(graph, x, graph.integer(0), blocks.length, axis=1)


def attention(graph: Graph, blocks: Blocks, q: str, k: str, v: str, half_window: int | None = None) -> str:
    """Softmax attention of queries over keys and values, (B, P, H) each.

    Args:
        half_window: a token sees the tokens at most this far to either side; None for all of its text.

    Returns:
        (B, P, H). A token whose window has no attended token gets zeros, as from `encoders.attention.attention`.
    """
    heads = graph.integers(0, 0, graph.heads, graph.head_dim)
    q = graph.op("Mul", q, graph.scalar(graph.head_dim**-0.5))
    q, k, v = (graph.op("Reshape", x, heads) for x in (q, k, v))
    q, v = (graph.op("Transpose", x, perm=[0, 2, 1, 3]) for x in (q, v))  # (B, h, P, d)
    k = graph.op("Transpose", k, perm=[0, 2, 3, 1])  # (B, h, d, P)

    def block(body: Graph, number: str) -> str:
        start = body.op("Mul", number, blocks.size)
        queries = _slice(body, q, start, body.op("Add", start, blocks.size), axis=2)
        keys, values, bias = k, v, blocks.bias
        if half_window is not None:
            keys, values, bias = _in_reach(body, blocks, start, half_window, k, v)
        scores = body.op("Add", body.op("MatMul", queries, keys), bias)
        y = body.op("MatMul", body.op("Softmax", scores, axis=-1), values)
        return y if half_window is None else body.op("Mul", y, _sees(body, bias))

    y = graph.loop(blocks.count, block, axes=4)
    # onnxruntime and OpenVINO stack the results, ONNX's reference evaluator appends each to the one before.
    y = graph.op("Transpose", graph.op("Reshape", y, blocks.shape), perm=[1, 0, 3, 2, 4])
    return graph.op("Reshape", y, graph.integers(0, -1, graph.hidden_size))


def _in_reach(body: Graph, blocks: Blocks, start: str, half_window: int, k: str, v: str) -> tuple[str, str, str]:
    """The keys (B, h, d, K) and values (B, h, K, d) in reach of a block, and the bias (B, 1, C, K) of its window."""
    width = body.integer(half_window)
    first = body.op("Max", body.op("Sub", start, width), body.integer(0))
    end = body.op("Add", body.op("Add", start, blocks.size), width)
    keys, values, position, padding = (
        _slice(body, x, first, end, axis) for x, axis in ((k, 3), (v, 2), (blocks.position, 0), (blocks.bias, 3))
    )
    query_position = body.op("Add", blocks.within, body.op("Cast", start, to=FLOAT))
    distance = body.op("Abs", body.op("Sub", query_position, position))
    outside = body.op("Cast", body.op("Greater", distance, body.scalar(half_window)), to=FLOAT)
    return keys, values, body.op("Add", padding, body.op("Mul", outside, body.scalar(_MASKED)))


def _sees(body: Graph, bias: str) -> str:
    """(B, 1, C, 1): 1 for tokens that have an attended token in their window, else 0."""
    best = body.op("ReduceMax", bias, axes=[-1])
    return body.op("Cast", body.op("Greater", best, body.scalar(_MASKED / 2)), to=FLOAT)


def _divided_up(graph: Graph, number: str, by: str) -> str:
    """The quotient of integers, rounded up."""
    return graph.op("Div", graph.op("Sub", graph.op("Add", number, by), graph.integer(1)), by)


def _slice(graph: Graph, x: str, start: str, end: str, axis: int) -> str:
    """Positions `start` to before `end` of an axis; there is nothing beyond its end."""
    ends = (graph.op("Unsqueeze", position, graph.integers(0)) for position in (start, end))
    return graph.op("Slice", x, *ends, graph.integers(axis))


def _padded(graph: Graph, x: str, padding: str, axes: int) -> str:
    """Zeros after the end of axis 1 of a tensor of so many axes."""
    number = graph.op("Unsqueeze", padding, graph.integers(0))
    before, after = graph.integers(*[0] * (axes + 1)), [graph.integers(0)] * (axes - 2)
    return graph.op("Pad", x, graph.op("Concat", before, number, *after, axis=0))

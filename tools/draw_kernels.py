"""Draw the pictures of docs/kernels.md into docs/images: `python tools/draw_kernels.py`.

A test compares the pictures with what this script draws.
"""

from collections.abc import Callable

from svg import IMAGES, PALE, STRONG, arrow, box, dashes, frame, lines, picture, text

QUERIES = ("#bfdbfe", "#86efac", "#ddd6fe")  # colours of queries 0, 1, 2
DOCUMENT = "#fed7aa"


def maxsim() -> str:
    """MaxSim of all pairs: tiles across the boundaries of queries, documents in blocks, rows t + b of `partial`."""
    left, top, token, block = 150, 84, 13, 38
    lengths, tile = (5, 8, 3), 8
    documents = ((0, 2.4), (3, 0.7), (4, 1.6))  # first block, and length in blocks
    bottom = top + token * sum(lengths)
    parts = [text(left, 50, "documents, in blocks of BLOCK_N tokens"), text(16, 76, "query tokens", "small")]
    y = top
    for b, length in enumerate(lengths):
        parts.append(box(88, y, 40, token * length, QUERIES[b], f"b = {b}"))
        y += token * length
    for t in range(2):
        parts.append(text(82, top + token * tile * (t + 0.5) + 4, f"tile t = {t}", "bold", "end"))
    for a, (first, length) in enumerate(documents):
        x = left + block * first
        parts.append(box(x, 58, block * length, 18, DOCUMENT, f"a={a}"))
        for i in range(int(length + 0.99)):
            used = min(1, length - i) * block
            for t in range(2):
                block_x = x + i * block
                parts.append(box(block_x, top + t * tile * token, block, token * tile, PALE))
                row = 0
                for b, n in enumerate(lengths):
                    num_tokens = min(row + n, tile * (t + 1)) - max(row, tile * t)
                    if num_tokens > 0:
                        y = top + token * max(row, tile * t)
                        parts.append(box(block_x, y, used, token * num_tokens, QUERIES[b]))
                    row += n
    parts.append(frame(left - 2, top - 2, 4 * block + 4, token * tile + 4))
    parts += [dashes(70, top + token * tile, left + 6 * block + 4, top + token * tile)]
    parts += lines(
        16,
        bottom + 24,
        [
            "red: one program, a tile with DOCUMENTS documents (here 2), block after block.",
            "Scores of a tile and a block exist in registers only; a running maximum for each query token stays.",
            "grey: after a document's end its last token is repeated, which does not change a maximum.",
            "At a document's end the maxima are summed for each query in the tile: one number in `partial`.",
        ],
    )
    x = 428
    parts.append(text(x, 50, "partial (tiles + B, A)"))
    parts.append(text(x + 206, 50, "scores (B, A)"))
    rows = ((0, 0), (0, 1), (1, 1), (1, 2))
    for row, (t, b) in enumerate(rows):
        y = top + 52 * row
        parts.append(box(x, y, 92, 26, QUERIES[b], f"row {t} + {b} = {row}"))
        target = top + 16 + 60 * b
        parts.append(arrow(x + 94, y + 13, x + 204, target + 13))
    for b in range(3):
        parts.append(box(x + 206, top + 16 + 60 * b, 92, 26, QUERIES[b], f"query {b}"))
    parts.append(text(x + 116, 70, "add_partial, in order", "small"))
    return picture(376, "MaxSim of all pairs: no token is padded", parts)


def backward() -> str:
    """Gradients of MaxSim: which pairs are skipped, the gather for queries, the product for documents."""
    parts = [text(16, 48, "Upstream gradients of a text's pairs, SCAN = 128 tested together (here 8)")]
    counted = {2: 0, 12: 1, 13: 2}
    for i in range(24):
        fill = STRONG if i in counted else PALE
        parts.append(box(16 + 18 * i + 10 * (i // 8), 58, 18, 18, fill))
    parts += [
        text(16, 92, "one counts: each is tested", "small"),
        text(170, 92, "two count", "small"),
        text(324, 92, "|g| ≤ limit for all: skipped", "small"),
    ]
    parts.append(dashes(16, 106, 744, 106))

    parts += [text(16, 130, "queries: a gather", "bold"), text(16, 150, "positions", "small")]
    positions = (4, 1, 4, 0)
    document_x, token = 130, 22
    for s, position in enumerate(positions):
        y = 160 + 30 * s
        parts.append(box(16, y, 28, token, QUERIES[0], str(position)))
        parts.append(arrow(46, y + 11, document_x - 4, 160 + 26 * position + 11))
    for t in range(6):
        parts.append(box(document_x, 160 + 26 * t, 74, token, DOCUMENT, f"token {t}"))
    parts.append(text(document_x + 74, 150, "a document", "small", "end"))
    parts.append(text(document_x + 82, 218, "· g, added to"))
    for s in range(4):
        parts.append(box(296, 160 + 30 * s, 50, token, QUERIES[0]))
    parts.append(frame(293, 157, 56, 118))
    parts += [
        text(321, 150, "its gradient", "small", "middle"),
        text(16, 336, "red: a program's rows, written once", "small"),
    ]

    x, cell = 400, 26
    parts += [text(x, 130, "documents: a product", "bold"), text(x, 150, "document tokens × query tokens", "small")]
    for t in range(6):
        for s, position in enumerate(positions):
            is_maximum = position == t
            fill = STRONG if is_maximum else PALE
            parts.append(box(x + cell * s, 160 + cell * t, cell, cell, fill))
            if is_maximum:
                middle = x + cell * (s + 0.5), 160 + cell * t + 17
                parts.append(f'<text x="{middle[0]:g}" y="{middle[1]:g}" text-anchor="middle" fill="white">g</text>')
    parts.append(text(x + 4 * cell + 8, 222, "×"))
    for s in range(4):
        parts.append(box(x + 4 * cell + 26, 178 + 28 * s, 60, 22, QUERIES[0], f"token {s}"))
    parts.append(text(x + 4 * cell + 24, 168, "the query", "small"))
    parts.append(text(x + 4 * cell + 96, 222, "added to"))
    for t in range(6):
        parts.append(box(x + 4 * cell + 156, 160 + cell * t, 60, 22, DOCUMENT))
    parts.append(frame(x + 4 * cell + 153, 157, 66, 158))
    parts.append(text(x + 4 * cell + 186, 150, "its gradient", "small", "middle"))
    parts.append(text(x, 336, "(position = token) · g: a product in place of a scatter with atomics", "small"))
    return picture(352, "MaxSim backward: every row is written by one program", parts)


def residuals() -> str:
    """MaxSim with residuals: packed byte → buckets → weights → product; the score is table + residual."""
    parts = [text(16, 48, "a byte of a token's residual (4 bits)", "small")]
    for i, bit in enumerate("10110010"):
        parts.append(box(16 + 24 * i, 56, 24, 24, DOCUMENT if i < 4 else QUERIES[2], bit))
    parts += [arrow(64, 84, 64, 106), arrow(160, 84, 160, 106)]
    parts += [box(31, 108, 66, 24, DOCUMENT, "number 11"), box(127, 108, 66, 24, QUERIES[2], "number 2")]
    parts += [text(222, 72, "shift and mask; `tl.join` lays the dimensions side by side", "small")]
    parts += [arrow(64, 136, 64, 162), arrow(160, 136, 160, 162)]
    parts += [box(31, 164, 66, 24, DOCUMENT, "weight"), box(127, 164, 66, 24, QUERIES[2], "weight")]
    parts += [
        text(
            222,
            124,
            "a bucket has its bits in reverse in the files, and the table of weights is in that order",
            "small",
        ),
        text(
            222, 180, "16 weights of half precision, 32 bytes, from the L1 cache: the largest part of the work", "small"
        ),
    ]
    parts += [arrow(112, 192, 112, 222)]
    parts += [
        box(16, 226, 192, 70, DOCUMENT, "decoded residuals"),
        text(112, 312, "BLOCK_T tokens × E", "small", "middle"),
        text(222, 266, "×", "16"),
        box(246, 226, 70, 70, QUERIES[0], "query"),
        text(281, 312, "E × 32", "small", "middle"),
        text(328, 266, "+", "16"),
        box(346, 226, 100, 70, QUERIES[1], "rows of the table"),
        text(396, 312, "float16, one for each code", "small", "middle"),
        text(456, 266, "· 1 / norm", "12"),
        arrow(524, 262, 548, 262),
        box(552, 226, 92, 70, PALE, "scores"),
        text(598, 312, "float32, registers", "small", "middle"),
        arrow(648, 262, 672, 262),
        box(676, 226, 66, 70, PALE, "maxima"),
    ]
    parts += lines(
        16,
        344,
        [
            "score of query token q with document token t = (q · centroid + q · residual) / norm of the decoded t",
            "The first product is in the table since stage 1. At the end of the document the maxima are summed and",
            "written: 4 bytes. Nothing decoded reaches memory. `exact_maxsim` adds the centroid itself, in float32.",
        ],
    )
    return picture(390, "residual_maxsim: from packed bytes to one score a document", parts)


def lists() -> str:
    """Lists walked in parallel: a document that is in a better cell's list is not counted again."""
    lists_of_cells = (("best cell", 9, (3, 8, 21)), ("second", 5, (3, 5, 21, 30)), ("third", 2, (2, 5, 8, 40)))
    parts = [text(16, 48, "One query token, 3 probes: each list has its own program, and all run at the same time")]
    gains: dict[int, int] = {}
    for probe, (name, gain, documents) in enumerate(lists_of_cells):
        y = 66 + 66 * probe
        parts += [text(16, y + 17, name, "bold"), text(16, y + 33, f"gain {gain}", "small")]
        for i, document in enumerate(documents):
            x, counted = 100 + 54 * i, document in gains
            parts.append(box(x, y, 50, 26, PALE if counted else DOCUMENT, str(document)))
            if counted:
                parts.append(f'<path d="M{x + 6},{y + 22} L{x + 44},{y + 4}" stroke="{STRONG}" stroke-width="1.5"/>')
            else:
                gains[document] = gain
        lookups = ("no better cell: all count", "looked up in 1 list", "looked up in 2 lists")[probe]
        parts.append(text(100, y + 43, lookups, "small"))
    parts.append(frame(94, 66 + 132 - 5, 54 * 4 + 8, 54))
    parts += [
        text(330, 80, "look-up: binary search in a sorted list", "small"),
        text(330, 98, "the third program: is 5 in the best cell's list?  3 < 5 < 8: no", "small"),
        text(330, 116, "in the second's?  yes: 5 has been counted there, with a larger gain", "small"),
    ]
    parts.append(arrow(322, 224, 350, 224))
    parts.append(text(358, 168, "gained (B, A), int32: sums over the query's tokens", "small"))
    for i, (document, gain) in enumerate(sorted(gains.items())):
        parts.append(box(358 + 54 * i, 178, 50, 24, PALE, str(document)))
        parts.append(box(358 + 54 * i, 202, 50, 24, QUERIES[1], f"+ {gain}"))
    parts += lines(358, 246, ["atomic additions of integers: any order gives the same sum"], "small")
    return picture(264, "walk_lists: each document counts with its best probed cell", parts)


def cascade() -> str:
    """A whole search, with the sizes of one example."""
    stages = (
        ("1  table of centroid scores", "matmul and topk", "65,536 centroids", "268 MB written, float16"),
        ("2  walk_lists", "16,384 programs", "4.7 M postings", "4 B each, sums of 25.6 MB"),
        ("3  centroid_maxsim", "131,072 programs", "2,048 a query", "2 B a token + 64 B of the table"),
        ("4  residual_maxsim", "32,768 programs", "512 a query", "64 + 6 B a token + 64 B of the table"),
        ("5  exact_maxsim", "1,536 programs", "24 a query", "64 + 6 B a token + 512 B of centroid"),
    )
    parts = [text(16, 46, "64 queries of 32 tokens; 100,000 documents of 187 tokens, 4 bits, 65,536 centroids; k = 10")]
    parts += [
        text(16, 76, "stage", "bold"),
        text(226, 76, "programs", "bold"),
        text(356, 76, "input", "bold"),
        text(478, 76, "memory traffic", "bold"),
    ]
    for i, (name, programs, size, read) in enumerate(stages):
        y = 88 + 60 * i
        parts.append(box(16, y, 196, 34, (*QUERIES, DOCUMENT, "#fecaca")[i]))
        parts.append(text(26, y + 22, name, "bold"))
        parts += [text(226, y + 22, programs), text(356, y + 22, size), text(478, y + 22, read)]
        parts.append(arrow(112, y + 36, 112, y + 58))
    between = ("8 cells a token, gains", "topk: 2,048", "topk: 512", "topk: 24", "")
    for i, label in enumerate(between):
        if label:
            parts.append(text(122, 88 + 60 * i + 51, label, "small"))
    parts.append(box(16, 388, 200, 34, PALE))
    parts.append(text(24, 410, "10 hits a query, to the host", "bold 11"))
    parts.append(frame(8, 82, 744, 302))
    parts.append(
        text(
            226, 410, "red: all sizes are known beforehand, so nothing waits, and a CUDA graph can capture it", "small"
        )
    )
    return picture(436, "A search on a GPU", parts)


PICTURES: dict[str, Callable[[], str]] = {
    "kernel_maxsim.svg": maxsim,
    "kernel_backward.svg": backward,
    "kernel_residuals.svg": residuals,
    "kernel_lists.svg": lists,
    "kernel_cascade.svg": cascade,
}


def main() -> None:
    for name, draw in PICTURES.items():
        (IMAGES / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()

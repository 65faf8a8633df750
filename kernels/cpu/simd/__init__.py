"""Inner loops of searches and encoders that a compiler does not vectorise well by itself, in LLVM IR for numba.

    llvm.py      block sizes, the processor's features, and short forms of LLVM's instructions
    dot.py       products of document tokens and query tokens: `dot_rows`, `raise_best`, `raise_best_float`
    best.py      the best of many rows for a token: `keep_best_2`, `keep_best_6`
    decode.py    packed codes to bytes: `decode_16`
    bf16.py      softmax, gates and rotary positions of rows of bfloat16
    int8.py      rows of activations to 8-bit integers, and their products back
    rows.py      maxima over rows of a table: `max_rows`; and `prefetch`
    tables.py    sums of rows of tables: `raise_best_rows`

Each function is a numba intrinsic: it is called from a `@njit` function and inlined there. No C compiler is
needed, because numba includes LLVM. Instructions are chosen for the processor that numba compiles for, so
NUMBA_CPU_NAME and NUMBA_CPU_FEATURES change them; the results are the same integers on every processor.

Legend: a block is COLUMNS query tokens; a group is 4 dimensions, which one lane multiplies and adds at once.
"""

from .best import keep_best_2, keep_best_6
from .decode import decode_16
from .dot import dot_rows, raise_best, raise_best_float
from .llvm import COLUMNS, ROWS
from .rows import max_rows, prefetch
from .tables import raise_best_rows

__all__ = [
    "COLUMNS",
    "ROWS",
    "decode_16",
    "dot_rows",
    "keep_best_2",
    "keep_best_6",
    "max_rows",
    "prefetch",
    "raise_best",
    "raise_best_float",
    "raise_best_rows",
]

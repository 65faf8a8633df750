"""Kernels for processors.

maxsim.py       MaxSim of all pairs and of lists of candidates, with gradients: oneDNN multiplies, numba reduces
plaid.py        the stages of an index search that score documents
lists.py        posting lists: making them, and walking those of the probed cells
kmeans.py       the steps of k-means that are not products
nearest.py      the nearest of many centroids for each token, in integers with a check in float32
residuals.py    residuals of tokens to a few bits a dimension, and back
product.py      residuals of tokens to a byte for each part, and searches with them
bits.py         how these bits lie in a byte, as tables
stopping.py     when a search may stop scoring
sums.py         checksums of documents and lists
checks.py       the same, and ranges of numbers, checked where a search first uses them
attention.py    self-attention in bfloat16, and with dropout in any dtype, with gradients
encoder.py      attention and gates in bfloat16 without gradients, in fewer passes over memory
int8.py         `x @ weight.T` in 8-bit integers
dropout.py      masks of dropout from keys instead of a generator's state
linear.py       `x @ weight.T` through oneDNN
compiled.py     numba's decorator, for read-only installations too
onednn.py       how many compiled products oneDNN keeps
simd/           inner loops of plaid.py, nearest.py, encoder.py and int8.py in LLVM IR
threads.py      threads for kernels that release the GIL

The modules below, whose functions numba compiles, load on first use, as `cpu.plaid` after
`from colbertz.kernels import cpu`: numba takes half a second to load, and opening an index or encoding a query does
not need it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import checks as checks
    from . import encoder as encoder
    from . import int8 as int8
    from . import kmeans as kmeans
    from . import lists as lists
    from . import maxsim as maxsim
    from . import nearest as nearest
    from . import plaid as plaid
    from . import product as product
    from . import residuals as residuals
    from . import stopping as stopping

_COMPILED = (
    *("checks", "encoder", "int8", "kmeans", "lists", "maxsim", "nearest", "plaid", "product", "residuals"),
    "stopping",
)

if not TYPE_CHECKING:  # type checkers would take a module with __getattr__ to have every name, misspelt ones too

    def __getattr__(name: str) -> object:
        if name not in _COMPILED:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return import_module(f"{__name__}.{name}")

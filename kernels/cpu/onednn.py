"""How many compiled products oneDNN keeps.

oneDNN compiles a product for every size and keeps it, up to 1 MiB each, and 1,024 of them: a process that encodes
batches of ever new sizes grows by 0.5 GiB and more. Two caches hold them: oneDNN's own, and one in the layer between
PyTorch and oneDNN (ideep). Each takes its capacity from a variable of the environment, which oneDNN reads at its first
product and ideep once in every thread; there is no function for it.
"""

import os

# Encoding is as fast as with 1,024 (benchmarks/onednn_caches.py).
WHEN_ENCODING = 128
# Training in bfloat16 repeats several hundred sizes: with 128 its steps took 1.5 times as long.
WHEN_TRAINING = 1024

# Each cache's variable, and the other names that it has.
_VARIABLES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": ("DNNL_PRIMITIVE_CACHE_CAPACITY",), "LRU_CACHE_CAPACITY": ()}
# Those that the user has not set.
_FREE = [name for name, others in _VARIABLES.items() if not os.environ.keys() & {name, *others}]


def keep_products(count: int) -> None:
    """Have oneDNN keep at most `count` products, unless the user has set a number, or oneDNN has computed one already.

    The variables stay set, also for processes that this one starts.
    """
    os.environ.update(dict.fromkeys(_FREE, str(count)))

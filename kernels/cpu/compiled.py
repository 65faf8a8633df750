"""`njit`, the decorator of all functions here that numba compiles.

numba keeps compiled code in files: in `NUMBA_CACHE_DIR`, else beside the source, else in the user's cache folder. Where
none of them can be written, as in many containers, it refuses to compile. Here such code stays in memory, and each
process compiles it again.
"""

import logging
from collections.abc import Callable
from typing import Any

import numba

logger = logging.getLogger(__name__)

# The functions whose code is not in files.
_in_memory: list[str] = []


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """As `numba.njit`, without the GIL, and with compiled code in files where that is possible."""

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError as error:  # numba's error for a cache without a folder
            if not _in_memory:
                logger.debug(
                    "compiled code is kept in memory only; NUMBA_CACHE_DIR can name a folder for it: %s", error
                )
            _in_memory.append(function.__name__)
            return numba.njit(nogil=True, **options)(function)

    return compiled

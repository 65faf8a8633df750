"""Keeping freed memory, on the CPU.

A training step allocates and frees the same tensors of tens of megabytes again and again. glibc returns blocks of this
size to the system at once, and the system hands them out again page by page, cleared: on two cores, `y = x * 2` for 38
MB took 37 ms instead of 2.5 (docs/log.md).
"""

import ctypes
import platform

# From glibc's malloc.h. A threshold of 2 GB or more is no `int`.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST = 2**31 - 1


def keep_freed_memory() -> None:
    """Have this process reuse the memory that it frees instead of returning it to the system; nothing outside glibc."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _MOST)
        libc.mallopt(_M_TRIM_THRESHOLD, _MOST)

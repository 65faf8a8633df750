"""Keeping freed memory in the process, on the CPU.

A training step allocates and frees the same tensors of tens of megabytes again and again. glibc returns blocks of this
size to the operating system at once, and the system has to clear every page before it hands it out again: on two cores,
`y = x * 2` for 38 MB took 37 ms instead of 2.5 ms (docs/log.md).
"""

import ctypes
import platform

# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# Bytes: the largest `int`, which is the type of the thresholds.
_LARGEST_THRESHOLD = 2**31 - 1


def keep_freed_memory() -> None:
    """Make this process reuse the memory that it frees instead of returning it to the system.

    This changes the allocator of the whole process, so programs call it and library functions do not. It does nothing
    where the C library is not glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST_THRESHOLD)

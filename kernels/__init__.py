"""The operators that decide colbertz's speed. Installed as `colbertz.kernels`; imports nothing else of colbertz.

    reference.py    what each operator means, in plain PyTorch: the fast versions are tested against it
    arrays.py       the arrays that launchers take, as named tuples
    cpu/            numba, oneDNN and LLVM IR, for processors
    triton/         Triton, for GPUs

Kernels (the functions under `@njit` and `@triton.jit`) take single arrays by position. The Python functions that
launch them take named tuples.
"""

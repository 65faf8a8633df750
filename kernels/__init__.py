"""The operators that decide colbertz's speed, each beside a plain PyTorch version that states what it means.

Installed as `colbertz.kernels`. Nothing here imports from the rest of colbertz.
"""

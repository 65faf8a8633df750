"""Kernels for processors.

maxsim.py       MaxSim of all pairs and of lists of candidates, with gradients: oneDNN multiplies, numba reduces
plaid.py        the stages of an index search that score documents
lists.py        posting lists: making them, and walking those of the probed cells
kmeans.py       the steps of k-means that are not matrix products
residuals.py    residuals of tokens to a few bits a dimension, and back
attention.py    self-attention in bfloat16
linear.py       `x @ weight.T` through oneDNN
simd/           inner loops of plaid.py in LLVM IR
threads.py      threads for kernels that release the GIL
"""

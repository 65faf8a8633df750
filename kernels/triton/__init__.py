"""Kernels for GPUs, in Triton.

maxsim.py               MaxSim of all pairs
maxsim_candidates.py    MaxSim of lists of candidates
maxsim_backward.py      the gradients of both
centroid_maxsim.py      index search: MaxSim as if each token were its centroid
residual_maxsim.py      index search: MaxSim from packed residuals
posting_lists.py        index search: walking the lists of the probed cells
kmeans.py               the nearest centroid of each token, and the sum of each centroid's tokens
residuals.py            residuals of tokens to a few bits a dimension
tuning.py               configurations of kernels, and functions that all kernels use
"""

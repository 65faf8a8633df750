"""Tests of kernels with the instructions of older x86 processors, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from colbertz.kernels.cpu.simd.llvm import cpu_features

# The processor's name for LLVM, its features, and the paths of simd/dot.py and simd/decode.py that it takes.
OLDER = [("haswell", "+sse4.2,+ssse3,+avx,+avx2,+fma", "avx2 ssse3"), ("x86-64", "", " ")]


def needs_x86(test):  # type: ignore[no-untyped-def]
    """Skip a test that runs as the older processor already, or on one that cannot run the code of older ones."""
    test = pytest.mark.skipif("COLBERTZ_TEST_PATH" in os.environ, reason="runs as the other processor")(test)
    return pytest.mark.skipif(not {"avx2", "fma"} <= cpu_features(), reason="an x86 processor runs older code")(test)


def run_as(cpu: str, features: str, path: str, file: str, chosen: str, cache: Path) -> None:
    """Run the tests of `file` that `-k chosen` selects as another processor, compiled into the folder `cache`."""
    environment = os.environ | {
        "NUMBA_CPU_NAME": cpu,
        "NUMBA_CPU_FEATURES": features,
        "NUMBA_CACHE_DIR": str(cache),
        "COLBERTZ_TEST_PATH": path,
    }
    command = [sys.executable, "-m", "pytest", file, "-q", "-x", "-p", "no:cacheprovider", "-k", chosen]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout[-3000:]

"""Where compiled code is kept: a package that cannot be written, with and without a folder that can."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sources import ROOT

CHILD = """
import logging
logging.basicConfig(level=logging.DEBUG)
logging.getLogger("numba").setLevel(logging.WARNING)
import numpy as np
from colbertz.kernels import cpu
from colbertz.kernels.cpu import kmeans, maxsim, plaid, residuals, stopping
assert cpu.lists.__file__.startswith({folder!r}), cpu.lists.__file__
codes = np.array([0, 2, 2, 2, 0], np.uint16)
print(cpu.lists.count_postings(codes, np.array([0, 2, 3, 5]), 4).tolist())
"""


@pytest.mark.parametrize("home_is_writable", [True, False])
def test_a_package_that_cannot_be_written_compiles(home_is_writable: bool, tmp_path: Path) -> None:
    """Its import ended with "cannot cache function … no locator available". Root may write everywhere, so files stand
    here where the folders would have to be made.
    """
    shutil.copytree(ROOT / "colbertz", tmp_path / "colbertz", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "colbertz/kernels/cpu/__pycache__").touch()
    home = tmp_path / "home"
    home.mkdir() if home_is_writable else home.touch()
    removed = ("NUMBA_CACHE_DIR", "NUMBA_CACHE_LOCATOR_CLASSES", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(folder=str(tmp_path))],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(tmp_path), "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[2, 0, 3, 0]\n"
    assert done.stderr.count("compiled code is kept in memory only") == (not home_is_writable)
    assert len(list(home.rglob("lists.count_postings*.nbc"))) == home_is_writable

"""How many products oneDNN keeps, in processes of their own: the number is read once."""

import os
import subprocess
import sys

import pytest
import torch

NAMES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
GROWTH = """
from pathlib import Path
import torch
from colbertz.kernels.cpu.linear import product

def resident():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) // 1024

x, weight = torch.randn(710, 256), torch.randn(256, 256)
product(x, weight)
before = resident()
for rows in range(10, 710):
    product(x[:rows], weight)
print(resident() - before)
"""
VARIABLES = f"""
import os
import colbertz.training
from colbertz.kernels.cpu import linear, onednn
print(*(os.environ.get(name) for name in {NAMES}))
onednn.keep_products(onednn.WHEN_TRAINING)
print(*(os.environ.get(name) for name in {NAMES}))
"""


def output(code: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run([sys.executable, "-c", code], env=environment | variables, check=True, capture_output=True)
    return done.stdout.decode()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident memory as Linux gives it")
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")
def test_products_of_ever_new_sizes_do_not_fill_memory() -> None:
    """700 sizes took 430 MiB; a server that encodes grew from 0.7 to 1.2 GiB."""
    assert int(output(GROWTH)) < 200


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "128 None 128\n1024 None 1024\n"),
        ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "7"}, "7 None 128\n7 None 1024\n"),
        ({"DNNL_PRIMITIVE_CACHE_CAPACITY": "7"}, "None 7 128\nNone 7 1024\n"),
        ({"LRU_CACHE_CAPACITY": "0"}, "128 None 0\n1024 None 0\n"),
    ],
)
def test_what_the_user_set_stays(variables: dict[str, str], expected: str) -> None:
    assert output(VARIABLES, **variables) == expected

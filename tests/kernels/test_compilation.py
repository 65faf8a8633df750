"""Every Triton kernel, compiled for the supported GPUs on any machine, fits the chip and spills no registers.

`compilation.py` compiles in another process, because in this one Triton may be in interpreter mode.
"""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

from compilation import SHARED_MEMORY

HERE = Path(__file__).parent
KERNELS = HERE.parents[1] / "kernels/triton"
# Bytes of stack that are allowed: ptxas sometimes spills a scalar or two to fit one more block on a multiprocessor.
MAX_SPILLED_BYTES = 32
# Launches that may spill: exact float32 products (three of tf32), for tests and for the last candidates of a search.
MAY_SPILL = ("float32", "exact")


def launched_kernels() -> set[str]:
    """Names of the functions in kernels/triton that Triton launches: those that call `program_id`."""
    names: set[str] = set()
    for path in KERNELS.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and "program_id" in ast.unparse(node):
                names |= {node.name for decorator in node.decorator_list if ast.unparse(decorator) == "triton.jit"}
    assert names, f"there are no kernels in {KERNELS}"
    return names


@pytest.fixture(scope="module", params=SHARED_MEMORY)
def compiled(request: pytest.FixtureRequest) -> tuple[str, list[dict[str, Any]]]:
    """A target, and the results of all compilations for it."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, HERE / "compilation.py", request.param]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4000:]
    return request.param, [json.loads(line) for line in run.stdout.splitlines()]


def show(results: list[dict[str, Any]]) -> str:
    return "\n".join(", ".join(f"{key} {value}" for key, value in result.items() if value) for result in results)


@pytest.mark.slow
def test_every_kernel_compiles_and_fits(compiled: tuple[str, list[dict[str, Any]]]) -> None:
    target, results = compiled
    failed = [result for result in results if result["error"]]
    assert not failed, f"{len(failed)} did not compile:\n{show(failed)}"
    missing = launched_kernels() - {result["kernel"] for result in results}
    assert not missing, f"not compiled, add a call of the launcher to tests/kernels/launches.py: {sorted(missing)}"
    registers = 512 if target.startswith("gfx") else 255
    large = [r for r in results if r["shared"] > SHARED_MEMORY[target] or r["registers"] > registers]
    assert not large, f"more than {SHARED_MEMORY[target]} bytes or {registers} registers:\n{show(large)}"
    hot = [result for result in results if not any(name in result["launch"] for name in MAY_SPILL)]
    assert len(hot) > len(results) / 3, "too few kernels are checked for spills"
    spilled = [result for result in hot if result["stack"] > MAX_SPILLED_BYTES]
    assert not spilled, f"registers spilled:\n{show(spilled)}"

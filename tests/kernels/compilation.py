"""Compile the kernels that launchers launch to machine code, without a GPU; a program for test_compilation.py.

    python compilation.py sm_90 [part of a kernel's name]

The launchers run on tensors without data ("meta"). Instead of launching, the arguments of each kernel are recorded.
Each distinct set of arguments is compiled with each configuration that fits the chip. Prints one JSON object for each
compilation.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from launches import LAUNCHES
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

from colbertz.kernels.triton import tuning

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# Bytes of shared memory that a program may have.
SHARED_MEMORY = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10}
TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "fp8e4nv",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "i1",
    torch.int16: "i16",
    torch.uint16: "u16",
    torch.int32: "i32",
    torch.int64: "i64",
}


@dataclass(frozen=True)
class Compiled:
    """A compilation: registers and bytes of stack of a thread, bytes of shared memory of a program, or an error."""

    kernel: str
    launch: str
    config: str
    registers: int
    stack: int
    shared: int
    error: str = ""


def recorded(launch: Callable[[], Any]) -> list[tuple[Any, dict[str, Any]]]:
    """The kernels that a launcher launches, each with its arguments by name."""
    calls = []

    def record(kernel: Any, *args: Any, **kwargs: Any) -> None:
        function = kernel.fn if isinstance(kernel, Autotuner) else kernel
        named = dict(zip(function.arg_names, args))
        options = {"grid", "warmup"}
        calls.append((kernel, {**named, **{k: v for k, v in kwargs.items() if k not in options}}))

    with mock.patch.object(Autotuner, "run", record), mock.patch.object(JITFunction, "run", record):
        launch()
    return calls


def signature(
    function: JITFunction, arguments: dict[str, Any]
) -> tuple[dict[str, str], dict[str, Any], dict[Any, Any]]:
    """The types, the constants and the aligned pointers, in the form that Triton's compiler takes."""
    types, constants, aligned = {}, {}, {}
    for position, parameter in enumerate(function.params):
        value = arguments.get(parameter.name)
        if parameter.is_constexpr or value is None:
            types[parameter.name], constants[parameter.name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            types[parameter.name] = "*" + TYPES[value.dtype]
            aligned[(position,)] = [["tt.divisibility", 16]]
        else:
            types[parameter.name] = "fp32" if isinstance(value, float) else "i32" if abs(value) < 1 << 31 else "i64"
    return types, constants, aligned


def jobs(target: str, kernel_name: str) -> Iterator[tuple[str, int, str]]:
    """(launch, index of the recorded call, configuration) of each distinct compilation."""
    seen = set()
    for name, launch in LAUNCHES.items():
        if "float8" in name and target in ("sm_80", "gfx942"):
            continue  # these chips have no float8
        for call_idx, (kernel, arguments) in enumerate(recorded(launch)):
            function = kernel.fn if isinstance(kernel, Autotuner) else kernel
            if kernel_name not in function.__name__:
                continue
            for config in configurations(kernel, arguments):
                key = function.__name__, str(signature(function, {**arguments, **config.kwargs})), str(config)
                if key not in seen:
                    seen.add(key)
                    yield name, call_idx, str(config)


def configurations(kernel: Any, arguments: dict[str, Any]) -> list[triton.Config]:
    if not isinstance(kernel, Autotuner):
        return [triton.Config({}, num_warps=arguments.get("num_warps", 4), num_stages=arguments.get("num_stages", 3))]
    kernel.nargs = arguments
    return kernel.prune_configs({})


def compiled(target: str, launch: str, call_idx: int, config_name: str) -> Compiled:
    kernel, arguments = recorded(LAUNCHES[launch])[call_idx]
    function = kernel.fn if isinstance(kernel, Autotuner) else kernel
    config = next(c for c in configurations(kernel, arguments) if str(c) == config_name)
    types, constants, aligned = signature(function, {**arguments, **config.kwargs})
    head = function.__name__, launch, config_name
    try:
        binary = triton.compile(
            ASTSource(function, types, constants, aligned),
            target=TARGETS[target],
            options={"num_warps": config.num_warps, "num_stages": config.num_stages},
        )
    except Exception as error:  # noqa: BLE001 the test reports any error
        return Compiled(*head, 0, 0, 0, f"{type(error).__name__}: {error}"[:2000])
    if "cubin" in binary.asm:
        registers, stack = nvidia_usage(binary.asm["cubin"])
    else:
        text = binary.asm["amdgcn"]
        registers, stack = (
            int(re.search(rf"\.{name}:\s+(\d+)", text)[1]) for name in ("vgpr_count", "private_segment_fixed_size")
        )
    return Compiled(*head, registers, stack, binary.metadata.shared)


def nvidia_usage(cubin: bytes) -> tuple[int, int]:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return int(re.search(r"REG:(\d+)", text)[1]), int(re.search(r"STACK:(\d+)", text)[1])


def main() -> None:
    target, kernel_name = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    tuning.on_amd = lambda: TARGETS[target].backend == "hip"
    tuning.shared_memory = lambda: SHARED_MEMORY[target]
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        for result in pool.map(compiled, *zip(*((target, *job) for job in jobs(target, kernel_name)))):
            print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    main()

"""Count the instructions in the loops of a kernel's machine code for an H100 (docs/kernels.md). Needs no GPU.

    python tools/count_instructions.py "residuals of 4 bits" residual_maxsim_kernel [part of a configuration]

The first argument names a call in tests/kernels/launches.py. The count of a loop
includes the loops inside it.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "0"
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests/kernels"))

import compilation
import triton
from launches import LAUNCHES
from triton.compiler import ASTSource
from triton.runtime.autotuner import Autotuner

from colbertz.kernels.triton import tuning

TARGET = "sm_90"


def machine_code(launch: str, name: str, part: str) -> Iterator[str]:
    """The disassembly of each launch of the kernel, in the first configuration whose description contains `part`."""
    tuning.on_amd = lambda: False
    tuning.shared_memory = lambda: compilation.SHARED_MEMORY[TARGET]
    for kernel, arguments in compilation.recorded(LAUNCHES[launch]):
        function = kernel.fn if isinstance(kernel, Autotuner) else kernel
        if function.__name__ != name:
            continue
        config = next(c for c in compilation.configurations(kernel, arguments) if part in str(c))
        source = ASTSource(function, *compilation.signature(function, {**arguments, **config.kwargs}))
        options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
        binary = triton.compile(source, target=compilation.TARGETS[TARGET], options=options)
        print(name, config)
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(binary.asm["cubin"])
            file.flush()
            tool = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
            yield subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=True).stdout


def loops(code: str) -> list[Counter[str]]:
    """The number of times that each instruction occurs in each loop, inner loops first."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    counts = []
    for line in code.splitlines():
        if label := re.match(r"(\.L_\w+):", line):
            labels[label[1]] = len(instructions)
        if match := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9]+)", line):
            instructions.append(match[1])
            target = re.search(r"BRA.*`\((\.L_\w+)\)", line)
            if target and target[1] in labels:
                counts.append(Counter(instructions[labels[target[1]] :]))
    return [loop for loop in counts if loop.total() > 5]


def main() -> None:
    for code in machine_code(*sys.argv[1:3], "".join(sys.argv[3:])):
        for loop in loops(code):
            print(loop.total(), ", ".join(f"{name} {count}" for name, count in loop.most_common()))


if __name__ == "__main__":
    main()

"""What the benchmark scripts share: a description of the machine, timing, peak memory, and the table and JSON file."""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def machine(*packages: str) -> dict[str, object]:
    """The processor, the cores and the versions of packages; `packages` are added to those that are always listed."""
    info = Path("/proc/cpuinfo")
    fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line) if info.exists() else {}
    cpu = {key.strip(): value.strip() for key, value in fields.items()}
    return {
        "cpu": f"{cpu.get('model name', platform.processor())} (family {cpu.get('cpu family', '?')})",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "numba", "numpy", *packages)},
    }


def seconds(
    contenders: Mapping[str, Callable[[], object]], repeats: int = 15, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """The median seconds of each contender. They take turns, so that other load on the machine affects all of them."""
    for run in contenders.values():
        run()
    durations: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            start = clock()
            run()
            durations[name].append(clock() - start)
    return {name: statistics.median(times) for name, times in durations.items()}


def peak_megabytes(run: Callable[[], object]) -> float:
    """By how much the resident memory of this process grows at most while `run` runs, in MiB (Linux)."""

    def field(name: str) -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split(f"{name}:")[1].split()[0])

    before = field("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    result = run()
    rise = (field("VmHWM") - before) / 1024
    del result
    return rise


def in_fresh_process(script: str, *args: str) -> float:
    """The last number that `script` prints when it runs in a separate process, without the memory of this one."""
    done = subprocess.run([sys.executable, script, *args], check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-1])


def report(name: str, about: Mapping[str, object], rows: Sequence[Mapping[str, object]]) -> None:
    """Print the rows as a table and write them, with the machine, to results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"machine": dict(about), "rows": [dict(row) for row in rows]}, indent=2, ensure_ascii=False)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    cells = [list(rows[0]), *([f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())

"""How long a command takes from cold: help, an error in the arguments, and a search, beside `import torch`.

    python benchmarks/start.py

The commands take turns, each in a process of its own. Seconds are medians of wall time and of processor time; the
second varies less where other programs run. The index holds the first `--documents` functions of Python's standard
library that have a docstring. Writes results/start.json.
"""

import argparse
import ast
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import common

import colbertz
from colbertz import Searcher

ROOT = Path(colbertz.__file__).parent.parent


def functions() -> Iterator[str]:
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        source = path.read_text()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
                yield ast.get_source_segment(source, node) or node.name


def times(command: list[str]) -> tuple[float, float]:
    """Seconds of wall time and of processor time."""
    before, started = os.times(), time.perf_counter()
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - started, os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    about = common.machine()
    with tempfile.TemporaryDirectory() as folder:
        index = f"{folder}/index"
        texts = list(islice(functions(), args.documents))
        num_tokens = Searcher.build(index, "colbertz/nano", texts, location="colbertz/nano").index.num_tokens
        search = [sys.executable, str(ROOT / "search.py"), "--index", index]
        commands = {
            "python -c 'import torch'": [sys.executable, "-c", "import torch"],
            "colbertz --help": [sys.executable, "-m", "colbertz", "--help"],
            "an unknown option": [sys.executable, "-m", "colbertz", "search", "--indx", "x", "query"],
            f"search.py, {len(texts)} documents, {num_tokens:,} tokens": [*search, "split a path"],
            "the same with compiled kernels (--n-full-scores 2048)": [
                *search,
                "--n-full-scores",
                "2048",
                "split a path",
            ],
        }
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for repeat in range(args.repeats + 1):
            for name, command in commands.items():
                result = times(command)
                if repeat:  # the first round fills the file cache and the kernels' cache
                    measured[name].append(result)
    rows = []
    for name, pairs in measured.items():
        wall, cpu = (statistics.median(values) for values in zip(*pairs))
        rows.append({"command": name, "wall s": round(wall, 3), "processor s": round(cpu, 3)})
    torch_wall, torch_cpu = rows[0]["wall s"], rows[0]["processor s"]
    for row in rows:
        row["wall / import torch"] = round(row["wall s"] / torch_wall, 2)
        row["processor / import torch"] = round(row["processor s"] / torch_cpu, 2)
    common.report("start", about, rows)


if __name__ == "__main__":
    main()

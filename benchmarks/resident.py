"""How long `colbertz search` takes as a command, with the background process warm, cold and turned off.

    python benchmarks/resident.py FOLDER

Whole processes are timed, the starts of Python too, in rounds: one of each kind after the other, so that other work on
the machine slows all of them. Beside them is `import torch` alone. The index of the folder is built before.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import RESULTS, machine

_QUERIES = ("where are failed requests retried", "parse a date string", "lock a file", "how is the cache emptied")
_COLBERTZ = (sys.executable, "-P", "-m", "colbertz")


def seconds(command: list[str], environment: dict[str, str]) -> float:
    """How long a command takes, which may find nothing (status 1)."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr)
    return time.perf_counter() - start


def measure(folder: Path, rounds: int, environment: dict[str, str]) -> dict[str, list[float]]:
    """The times of all rounds, each with another query."""
    times: dict[str, list[float]] = {"import torch": [], "warm": [], "cold": [], "without": []}
    search = [*_COLBERTZ, "search", "-k", "5"]
    seconds([*search, "words", str(folder)], environment)
    for number in range(rounds):
        query = f"{_QUERIES[number % len(_QUERIES)]} {number}"
        times["import torch"].append(seconds([sys.executable, "-c", "import torch"], environment))
        times["warm"].append(seconds([*search, query, str(folder)], environment))
        times["without"].append(seconds([*search, "--no-resident", query, str(folder)], environment))
        subprocess.run([*_COLBERTZ, "resident", "stop"], capture_output=True, env=environment, check=True)
        times["cold"].append(seconds([*search, query, str(folder)], environment))
        seconds([*search, "words", str(folder)], environment)  # what a first search loads is loaded for the next round
    subprocess.run([*_COLBERTZ, "resident", "stop"], capture_output=True, env=environment, check=True)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS / "resident.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as runtime:
        environment = {**os.environ, "XDG_RUNTIME_DIR": runtime}
        environment.pop("COLBERTZ_RESIDENT", None)
        times = measure(args.folder.absolute(), args.rounds, environment)
    medians = {name: round(statistics.median(values), 3) for name, values in times.items()}
    status = subprocess.run([*_COLBERTZ, "status", str(args.folder)], capture_output=True, text=True, check=True).stdout
    result = {"machine": machine(), "folder": status.splitlines(), "rounds": args.rounds, "median_s": medians}
    args.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(json.dumps(result, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()

"""What the capacity of oneDNN's caches costs and saves: processor time and memory of a process that encodes or trains.

oneDNN compiles a product for every size and keeps it; `kernels/cpu/linear.py` says how many it may keep. The capacity
is read once, so each measurement is a process of its own. The capacities take turns, and the time is that of the
processor, so that other load on the machine matters less. Every workload runs with `colbertz/nano`, and after a first
round that is not timed:

    documents        `encode_document` of 400 texts of 1 to 300 words
    queries          `encode_query` of 1 to 32 texts, 200 times
    training, DTYPE  forward and backward of a sum, 16 batches of 32 texts of 1 to 150 words

Writes results/onednn_caches.json.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import common
import torch
from long_lived import resident_mebibytes, text

from colbertz import ColBERT

NAMES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
# 1024 is what oneDNN and PyTorch have by themselves.
CAPACITIES = (1024, 256, 128, 64, 32)


def documents(model: ColBERT, rng: random.Random) -> None:
    model.encode_document([text(rng, 300) for _ in range(400)])


def queries(model: ColBERT, rng: random.Random) -> None:
    for _ in range(200):
        model.encode_query([text(rng, 20) for _ in range(rng.randint(1, 32))])


def training(model: ColBERT, rng: random.Random) -> None:
    for _ in range(16):
        tokens = model.tokenizer.documents([text(rng, 150) for _ in range(32)])
        with torch.enable_grad():
            model(tokens).values.float().sum().backward()
        model.zero_grad()


WORKLOADS: dict[str, tuple[Callable[[ColBERT, random.Random], None], torch.dtype]] = {
    "documents, float32": (documents, torch.float32),
    "documents, bfloat16": (documents, torch.bfloat16),
    "queries, float32": (queries, torch.float32),
    "queries, bfloat16": (queries, torch.bfloat16),
    "training, float32": (training, torch.float32),
    "training, bfloat16": (training, torch.bfloat16),
}


def child(workload: str, seed: int) -> None:
    """Print the processor seconds of a second round, and the resident MiB after it."""
    work, dtype = WORKLOADS[workload]
    model = ColBERT.from_pretrained("colbertz/nano", device="cpu", dtype=dtype)
    rng = random.Random(seed)
    work(model, rng)
    start = time.process_time()
    work(model, rng)
    print(time.process_time() - start, resident_mebibytes())


def measured(workload: str, capacity: int, seed: int) -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--workload", workload, "--seed", str(seed)],
        env=os.environ | dict.fromkeys(NAMES, str(capacity)),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    seconds, resident = map(float, done.stdout.split()[-2:])
    return seconds, resident


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workload", choices=WORKLOADS, help="run one in this process and print its measurements")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=common.RESULTS, help="folder of the JSON file")
    args = parser.parse_args()
    common.RESULTS = args.output
    if args.workload:
        child(args.workload, args.seed)
        return
    about = common.machine()
    rows = []
    for workload in WORKLOADS:
        rounds = [
            {capacity: measured(workload, capacity, seed) for capacity in CAPACITIES} for seed in range(args.repeats)
        ]
        for capacity in CAPACITIES:
            seconds, resident = zip(*(each[capacity] for each in rounds))
            ratio = statistics.median(each[capacity][0] / each[CAPACITIES[0]][0] for each in rounds)
            rows.append(
                {
                    "workload": workload,
                    "capacity": capacity,
                    "CPU s": statistics.median(seconds),
                    "of the time with 1024": ratio,
                    "MiB": statistics.median(resident),
                }
            )
    common.report("onednn_caches", about, rows)


if __name__ == "__main__":
    main()

"""Encoding on a CPU where other programs run: a batch on each core, against operators that use all cores.

    python benchmarks/cores.py

`colbertz` is `encode_query` of one title, and `encode_document` of 24 abstracts. `all cores` gives the same tokens to
`ColBERT.embed` in batches of 2,048, one after the other, in which PyTorch's operators divide their work among the cores
and wait for each other. The two take turns, with as many busy processes beside them as `--busy` says. The model is
colbertz/nano. Milliseconds of wall time. Writes results/cores.json.
"""

import argparse
import gzip
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import common
import torch

from colbertz import ColBERT
from colbertz.models import Tokens

_BUSY = "while True: pass"


def percentiles(contenders: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each contender: the median and, of all runs, those that 95 and 99 % do not exceed."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        run()
    for _ in range(repeats):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            taken[name].append(1e3 * (time.perf_counter() - start))
    cuts = {name: statistics.quantiles(times, n=100, method="inclusive") for name, times in taken.items()}
    return {name: [cut[49], cut[94], cut[98]] for name, cut in cuts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--repeats", type=int, default=40)
    args = parser.parse_args()
    about = common.machine()
    with gzip.open(args.data / "pairs/arxiv.jsonl.gz", "rt", encoding="utf-8") as file:
        pairs = [json.loads(line) for line in itertools.islice(file, 24)]
    query, documents = pairs[0]["query"], [pair["document"] for pair in pairs]
    rows = []
    for dtype, busy in itertools.product((torch.bfloat16, torch.float32), args.busy):
        model = ColBERT.from_pretrained("colbertz/nano", "cpu", dtype)

        def on_all_cores(tokens: Tokens, model: ColBERT = model) -> None:
            bounds = [len(part) for part in tokens.ids.split(2048)]
            for batch in torch.arange(len(tokens.ids)).split(bounds):
                model.embed(tokens[batch])

        jobs: dict[str, tuple[dict[str, Callable[[], object]], int]] = {
            "query": (
                {
                    "colbertz": lambda model=model: model.encode_query(query, show_progress=False),
                    "all cores": lambda model=model: on_all_cores(model.tokenizer.queries([query])),
                },
                5 * args.repeats,
            ),
            "24 abstracts": (
                {
                    "colbertz": lambda model=model: model.encode_document(documents, show_progress=False),
                    "all cores": lambda model=model: on_all_cores(model.tokenizer.documents(documents)),
                },
                args.repeats,
            ),
        }
        children = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(busy)]
        try:
            for what, (contenders, repeats) in jobs.items():
                for name, (p50, p95, p99) in percentiles(contenders, repeats).items():
                    about_row = {"what": what, "dtype": str(dtype).split(".")[1], "busy processes": busy, "by": name}
                    rows.append(about_row | {"p50 ms": p50, "p95 ms": p95, "p99 ms": p99})
                    print(rows[-1], flush=True)
        finally:
            for child in children:
                child.kill()
                child.wait()
    common.report("cores", about, rows)


if __name__ == "__main__":
    main()

"""Where the time of encoding documents on the CPU goes, by size of the model and by type.

    python benchmarks/encode_breakdown.py

The models and documents are those of dtypes.py. Every step is timed in the run itself, without the steps inside it, on
one core and in processor time. Writes results/encode_breakdown_PROCESSOR.json.
"""

import argparse
import gzip
import itertools
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import common
import dtypes
import torch
from torch import nn

from colbertz import ColBERT
from colbertz.kernels import cpu
from colbertz.models import ColBERTTokenizer
from colbertz.models.dtypes import fast_bf16
from colbertz.models.encoders import bert, modernbert
from colbertz.models.encoders.layers import Linear

STEPS = [
    ("tokenisation", ColBERTTokenizer, "tokenise"),
    ("products with weights", Linear, "forward"),
    ("attention", cpu.encoder, "attention"),
    ("attention", modernbert, "attention"),
    ("attention", bert, "attention"),
    ("products in attention", torch, "bmm"),
    ("rotary positions", modernbert, "rotate"),
    ("norms", nn.LayerNorm, "forward"),
    ("gates", modernbert.MLP, "forward"),
    ("residuals, GELU of BERT", modernbert.Layer, "forward"),
    ("residuals, GELU of BERT", bert.Layer, "forward"),
    ("other in the model", ColBERT, "forward"),
]


class Clock:
    """Processor seconds of this thread by name, each without those of the named steps inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.inside = [0.0]

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.thread_time()
        self.inside.append(0.0)
        try:
            yield
        finally:
            taken = time.thread_time() - start
            self.seconds[name] += taken - self.inside.pop()
            self.inside[-1] += taken

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **settings: Any) -> Any:
            with self.step(name):
                return function(*args, **settings)

        return run


def shares(model: ColBERT, documents: list[str], repeats: int) -> dict[str, float]:
    """The median share of each step, in percent, and the tokens that are embedded a second."""
    runs: list[dict[str, float]] = []
    for repeat in range(repeats + 1):
        clock = Clock()
        with ExitStack() as patches:
            for name, owner, attribute in STEPS:
                patches.enter_context(patch.object(owner, attribute, clock.timed(name, getattr(owner, attribute))))
            with clock.step("batching and collecting"):
                embeddings = model.encode_document(documents, show_progress=False)
        total = sum(clock.seconds.values())
        if repeat:  # oneDNN and numba compile in the first round
            runs.append({name: 100 * seconds / total for name, seconds in clock.seconds.items()})
            runs[-1]["tokens/s"] = len(embeddings.values) / total
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    about = common.machine() | {"bfloat16 instructions": fast_bf16() or "none"}
    with gzip.open(args.data / "pairs/arxiv.jsonl.gz", "rt", encoding="utf-8") as file:
        documents = [json.loads(line)["document"] for line in itertools.islice(file, 128)]
    rows = []
    for size, dtype in itertools.product(dtypes.SIZES, (torch.bfloat16, torch.float32)):
        found = shares(dtypes.load(size, dtype), documents[: dtypes.NUM_DOCUMENTS[size]], args.repeats)
        steps = {f"{name} %": round(found.get(name, 0.0), 1) for name in dict.fromkeys(name for name, *_ in STEPS)}
        rows.append({"model": size, "dtype": str(dtype).split(".")[1], "tokens/s": round(found["tokens/s"])} | steps)
        print(rows[-1], flush=True)
    common.report(f"encode_breakdown_{fast_bf16() or 'none'}", about, rows)


if __name__ == "__main__":
    main()

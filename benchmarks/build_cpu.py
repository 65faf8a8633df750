"""Finding centroids and coding on the CPU, beside the time that their products take at the processor's rate.

    python benchmarks/build_cpu.py [--tokens 1000000 10000000]

The tokens are those of search_growth.py, made before the time is taken. One thread, and the processor time of that
thread, so that other work on the machine counts little. The products are those of two levels with groups of equal
sizes: for K centroids 21 · √K of a sampled token (1 to find its group, 4 rounds within the group, and two rounds of
8 over all centroids) and 8 · √K of a coded one. Their rates are those of PyTorch's int8 and bf16 products of 512 and
1,024 rows of 128 dimensions, whose results stay in the cache: the best of five. Writes results/build_cpu.json.
"""

import argparse
import math
import time
from collections.abc import Callable

import common
import torch
from search_growth import DIM, collection

from colbertz.index.store import codec as codecs
from colbertz.index.store.coding import Coding

DOCUMENT_TOKENS = 47  # of a document of search_growth.py, about
ROUNDS_OF_TRAINING, ROUNDS_OF_CODING = 21, 8


def processor_seconds(run: Callable[[], object]) -> float:
    start = time.thread_time()
    run()
    return time.thread_time() - start


def products_per_second(dtype: torch.dtype) -> float:
    a, b = (torch.randint(-127, 128, (rows, DIM)).to(dtype) for rows in (512, 1024))
    times = 200
    multiply = torch._int_mm if dtype == torch.int8 else torch.mm
    seconds = min(processor_seconds(lambda: [multiply(a, b.T) for _ in range(times)]) for _ in range(5))
    return times * len(a) * len(b) / seconds


def measure(num_tokens: int) -> dict[str, object]:
    documents = collection(num_tokens // DOCUMENT_TOKENS)
    tokens = torch.cat([batch.values.half() for batch in documents])
    sample = tokens[torch.randperm(len(tokens))[: codecs.sample_size(len(tokens))]].float()
    trained: list[codecs.Codec] = []
    training = processor_seconds(lambda: trained.append(codecs.train(sample, len(tokens), Coding(), seed=0)))
    [codec] = trained
    coding = processor_seconds(lambda: [codec.encode(part) for part in tokens.split(1 << 18)])
    root = math.sqrt(len(codec.centroids))
    int8, bf16 = products_per_second(torch.int8), products_per_second(torch.bfloat16)
    products = root * ROUNDS_OF_TRAINING * len(sample), root * ROUNDS_OF_CODING * len(tokens)
    return {
        "tokens": len(tokens),
        "sampled": len(sample),
        "centroids": len(codec.centroids),
        "int8 GFLOP/s": int8 * 2 * DIM / 1e9,
        "bf16 GFLOP/s": bf16 * 2 * DIM / 1e9,
        "centroids s": training,
        "coding s": coding,
        "times int8 products": (training + coding) * int8 / sum(products),
        "times bf16 products": (training + coding) * bf16 / sum(products),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1_000_000, 10_000_000])
    args = parser.parse_args()
    torch.set_num_threads(1)
    codecs.train(torch.randn(70_000, DIM), 2_000_000, Coding(), seed=0).encode(
        torch.randn(5000, DIM)
    )  # loads the kernels
    about = common.machine()
    common.report("build_cpu", about, [measure(count) for count in args.tokens])


if __name__ == "__main__":
    main()

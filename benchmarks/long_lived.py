"""The memory and the open files of a process that encodes and searches for a long time.

Each part runs in a process of its own, with `colbertz/nano` on the CPU:

    encode, DTYPE    a third each of `encode_query`, `encode_document` and `search`, each call with another number of
                     texts of other lengths, `batch_tokens`, k and filter
    threads          the same searches from threads that share one `Searcher`, with new threads every 100 calls
    refresh          an index is opened once; for each call, another handle adds or deletes a document, and the first
                     handle refreshes and searches

After a quarter of the calls the process should have reached its size: `growth` is what the calls after that add.
Writes results/long_lived.json.
"""

import argparse
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import common
import torch

from colbertz import ColBERT, Searcher

# Sizes are noted this often, in parts of all calls, and after the first hundredth.
NOTES = 20
WORDS = [f"{a}{b}" for a in ("river", "stone", "light", "engine", "tree") for b in ("", "s", "ing", "less", "like")]


def text(rng: random.Random, most: int) -> str:
    """Between 1 and `most` words; short texts are as frequent as long ones on a logarithmic scale."""
    return " ".join(rng.choices(WORDS, k=round(most ** rng.random())))


def resident_mebibytes() -> float:
    """Resident memory of this process (Linux)."""
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def one_search(rng: random.Random, searcher: Searcher) -> None:
    filters = [None, "year > ?", f"year in ({rng.randrange(100)}, {rng.randrange(100)})", "text like ?"]
    where = rng.choice(filters)
    parameters = {None: [], "year > ?": [rng.randrange(100)], "text like ?": [f"%{rng.choice(WORDS)}%"]}
    searcher.search(
        [text(rng, 20) for _ in range(rng.randint(1, 8))],
        rng.randint(1, 50),
        where=where,
        parameters=parameters.get(where, []),
        hybrid=rng.random() < 0.3,
    )


def small_searcher(folder: Path, dtype: torch.dtype) -> Searcher:
    rng = random.Random(1)
    documents = [text(rng, 100) for _ in range(500)]
    model = ColBERT.from_pretrained("colbertz/nano", device="cpu", dtype=dtype)
    return Searcher.build(folder / "index", model, documents, metadata=[{"year": i % 100} for i in range(500)])


def encoding(folder: Path, dtype: torch.dtype) -> Callable[[random.Random], None]:
    searcher = small_searcher(folder, dtype)

    def call(rng: random.Random) -> None:
        kind = rng.randrange(3)
        if kind == 0:
            searcher.model.encode_query([text(rng, 20) for _ in range(rng.randint(1, 20))])
        elif kind == 1:
            tokens = rng.choice([None, rng.randint(100, 8000)])
            searcher.model.encode_document([text(rng, 300) for _ in range(rng.randint(1, 12))], batch_tokens=tokens)
        else:
            one_search(rng, searcher)

    return call


def threads(folder: Path) -> Callable[[random.Random], None]:
    searcher = small_searcher(folder, torch.float32)

    def hundred(rng: random.Random) -> None:
        seeds = [rng.random() for _ in range(100)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda seed: one_search(random.Random(seed), searcher), seeds))

    return hundred


def refreshing(folder: Path) -> Callable[[random.Random], None]:
    reader = small_searcher(folder, torch.float32)
    writer = Searcher.open(folder / "index", reader.model)
    added: list[str] = []

    def call(rng: random.Random) -> None:
        if len(added) == 20:
            writer.delete(added)
            writer.index.compact()
            added.clear()
        else:
            added.append(f"new {rng.random()}")
            writer.add([text(rng, 100)], ids=added[-1:])
        if not reader.refresh():
            raise SystemExit("the change was not seen")
        one_search(rng, reader)

    return call


# Name: what makes a call, and how many calls one of these is.
PARTS: dict[str, tuple[Callable[[Path], Callable[[random.Random], None]], int]] = {
    "encode, float32": (lambda folder: encoding(folder, torch.float32), 1),
    "encode, bfloat16": (lambda folder: encoding(folder, torch.bfloat16), 1),
    "threads": (threads, 100),
    "refresh": (refreshing, 1),
}


def sizes(part: str, calls: int) -> Iterator[tuple[int, float, int]]:
    """(calls so far, resident MiB, open files) of this process."""
    rng = random.Random(0)
    make, weight = PARTS[part]
    rounds = calls // weight
    with tempfile.TemporaryDirectory() as folder:
        call = make(Path(folder))
        for i in range(rounds):
            call(rng)
            if i + 1 == rounds // 100 or (i + 1) % (rounds // NOTES) == 0:
                yield (i + 1) * weight, resident_mebibytes(), len(list(Path("/proc/self/fd").iterdir()))


def measured(part: str, calls: int) -> dict[str, object]:
    command = [sys.executable, __file__, "--part", part, "--calls", str(calls)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    rows = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    settled = next(row for row in rows if row[0] >= calls / 4)
    return {
        "part": part,
        "calls": int(rows[-1][0]),
        "MiB at first": rows[0][1],
        "MiB after a quarter": settled[1],
        "MiB at the end": rows[-1][1],
        "growth": rows[-1][1] - settled[1],
        "open files after a quarter": int(settled[2]),
        "open files at the end": int(rows[-1][2]),
        "MiB after calls": {int(row[0]): round(row[1]) for row in rows},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000, help="of each part; a tenth of it for refresh")
    parser.add_argument("--part", choices=PARTS, help="run one part in this process and print its sizes")
    parser.add_argument("--output", type=Path, default=common.RESULTS, help="folder of the JSON file")
    args = parser.parse_args()
    common.RESULTS = args.output
    if args.part:
        for row in sizes(args.part, args.calls):
            print(*row, flush=True)
        return
    about = common.machine()
    rows = [measured(part, args.calls // 10 if part == "refresh" else args.calls) for part in PARTS]
    common.report("long_lived", about, rows)


if __name__ == "__main__":
    main()

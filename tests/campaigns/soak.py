"""Thousands of trials with damaged and hostile files, as `make soak` runs them; see `trials`.

    python tests/campaigns/soak.py --trials 500 --seed 7 --format index

Prints every trial that ended badly, with what repeats it, and a table of formats and outcomes. Ends with status 1 if
there was one.
"""

import argparse
import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from formats import FORMATS
from trials import FOUND, OTHER, REFUSED, SAME, Campaign

ENDS = {SAME: "right", REFUSED: "refused", FOUND: "found by check", OTHER: "another", "bad": "BAD"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500, help="trials of each format (default: 500)")
    parser.add_argument("--first", type=int, default=0, help="number of the first trial (default: 0)")
    parser.add_argument("--seed", type=int, help="of all trials (default: of the time, printed)")
    parser.add_argument("--format", choices=sorted(FORMATS), action="append", help="only this format (may be repeated)")
    args = parser.parse_args()
    seed = time.time_ns() % 10**9 if args.seed is None else args.seed
    logging.disable()
    torch.set_num_threads(1)  # a forked child has none of its parent's threads
    print(f"seed {seed}", flush=True)
    table: dict[str, Counter[str]] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="colbertz-soak-") as folder:
        for name in args.format or FORMATS:
            began = time.perf_counter()
            table[name] = Counter()
            for outcome in Campaign(name, FORMATS[name], Path(folder)).run(
                range(args.first, args.first + args.trials), seed
            ):
                table[name][outcome.end if outcome.is_good else "bad"] += 1
                if not outcome.is_good:
                    again = f"--format {name!r} --seed {seed} --first {outcome.trial} --trials 1"
                    print(f"\n{again}\n{outcome.damage}\n{outcome.end}", flush=True)
            seconds[name] = time.perf_counter() - began
    print(f"\n{'format':20}" + "".join(f"{label:>16}" for label in ENDS.values()) + f"{'seconds':>9}")
    for name, ends in table.items():
        print(f"{name:20}" + "".join(f"{ends[end]:16,}" for end in ENDS) + f"{seconds[name]:9.0f}")
    return int(any(ends["bad"] for ends in table.values()))


if __name__ == "__main__":
    sys.exit(main())

"""`colbertz compact`: merge the segments of an index and drop its deleted documents."""

import argparse
import time

from colbertz.cli.options import seed
from colbertz.text.counted import counted

HELP = "merge the segments of an index and drop deleted documents"
EXAMPLES = """\
  colbertz compact my-index
  colbertz compact my-index --retrain
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", metavar="INDEX", help="directory of an index")
    parser.add_argument("--retrain", action="store_true", help="make new centroids for what is in the index now")
    parser.add_argument("--seed", type=seed, default=42, metavar="N", help="seed of the new centroids (default: 42)")


def run(args: argparse.Namespace) -> None:
    from colbertz.index import Index

    started = time.perf_counter()
    index = Index.open(args.index)
    num_segments, megabytes = len(index.manifest.segments), index.manifest.size / 1e6
    index.compact(retrain=args.retrain, seed=args.seed, show_progress=None)
    seconds, new_megabytes = time.perf_counter() - started, index.manifest.size / 1e6
    print(
        f"{args.index}: {counted(len(index), 'document')} in one segment instead of {num_segments},"
        f" {new_megabytes:,.1f} MB instead of {megabytes:,.1f}, in {seconds:.1f} s"
    )

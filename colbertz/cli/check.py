"""`colbertz check`: read every file of an index and compare it with its checksum."""

import argparse
from pathlib import Path

HELP = "compare every file of an index with its checksum"
EXAMPLES = "  colbertz check my-index"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", metavar="INDEX", help="directory of an index")


def run(args: argparse.Namespace) -> None:
    from colbertz.index import Index
    from colbertz.index.store.detect import require_own

    require_own(Path(args.index))
    index = Index.open(args.index)
    index.check()
    megabytes = index.manifest.size / 1e6
    print(f"{args.index}: {len(index.manifest.files)} files, {megabytes:,.1f} MB, all as they were written")
    if advice := index.advice():
        print(f"advice: {advice} (colbertz compact)")

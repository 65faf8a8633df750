"""`colbertz convert`: copy an index into another program's format, or another program's index into ours."""

import argparse
from pathlib import Path

HELP = "copy an index from or to the formats of fast-plaid and next-plaid, or from Stanford ColBERT's"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="an index of colbertz, fast-plaid, next-plaid or Stanford ColBERT")
    parser.add_argument("target", help="a new or an empty directory")
    parser.add_argument(
        "--to", required=True, choices=("colbertz", "fast-plaid", "next-plaid"), help="the format to write"
    )


def run(args: argparse.Namespace) -> None:
    from colbertz.index.interop.convert import convert
    from colbertz.index.store.detect import detect

    program = detect(Path(args.source)) or "colbertz"
    convert(args.source, args.target, args.to)
    print(f"converted from {program} to {args.to}: {args.target}")

"""`colbertz convert`: copy an index into another program's format, or another program's index into ours."""

import argparse
from pathlib import Path

HELP = "copy an index from or to the formats of fast-plaid and next-plaid, or from Stanford ColBERT's"
EXAMPLES = """\
  colbertz convert my-index my-next-plaid-index --to next-plaid
  colbertz convert plaid-index my-index --to colbertz
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SOURCE", help="index of colbertz, fast-plaid, next-plaid or Stanford ColBERT"
    )
    parser.add_argument("target", metavar="TARGET", help="new or empty directory")
    parser.add_argument("--to", required=True, choices=("colbertz", "fast-plaid", "next-plaid"), help="format to write")
    parser.add_argument(
        "--drop-norms",
        action="store_true",
        help="write an index with embeddings that are not of unit length, such as a pooled one, as if they were; the"
        " other programs hold no norms, so their scores are others",
    )
    parser.add_argument(
        "--codec",
        choices=("scalar", "pq", "opq"),
        help="code residuals again, as for `colbertz index` (default: as they are; pq and opq become scalars of 4 bits "
        "for other programs)",
    )
    parser.add_argument("--nbits", type=int, choices=(1, 2, 4, 8), help="bits for each dimension with scalar")
    parser.add_argument("--bytes", type=int, metavar="N", help="bytes for each token with pq and opq")


def run(args: argparse.Namespace) -> None:
    from colbertz.index.interop.convert import convert
    from colbertz.index.store.detect import detect

    program = detect(Path(args.source)) or "colbertz"
    convert(
        args.source,
        args.target,
        args.to,
        drop_norms=args.drop_norms,
        codec=args.codec,
        nbits=args.nbits,
        bytes_per_token=args.bytes,
        show_progress=None,
    )
    print(f"converted from {program} to {args.to}: {args.target}")

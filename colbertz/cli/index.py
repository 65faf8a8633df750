"""`colbertz index`: encode a corpus and write an index of it, or add to one that is there."""

import argparse
import time
from typing import TYPE_CHECKING

from colbertz.cli.options import add_encoding_arguments, add_model_arguments, load_model
from colbertz.corpus.documents import read_documents
from colbertz.corpus.formats import NAMES
from colbertz.corpus.lines import require_file

if TYPE_CHECKING:
    from colbertz.searcher import Searcher

HELP = "encode a corpus and write a searchable index"
CORPUS_HELP = (
    f"{NAMES} with _id (or id), text and perhaps title; other columns are kept as metadata; text files may be .gz; "
    "- for JSON lines from stdin"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--corpus", required=True, metavar="FILE", help=CORPUS_HELP)
    parser.add_argument("--out", required=True, metavar="DIR", help="the index to write")
    add_build_arguments(parser)


def add_build_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of building, for `colbertz search --build` too."""
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the index that is there once the new one is complete"
    )
    parser.add_argument(
        "--nbits", type=int, choices=(1, 2, 4, 8), default=4, help="bits for each dimension (default: 4)"
    )
    parser.add_argument("--seed", type=int, default=42, help="of sampling and k-means (default: 42)")
    parser.add_argument("--index-device", metavar="DEVICE", help="cuda, cuda:1 … to work on the index (default: cpu)")
    add_encoding_arguments(parser)


def run(args: argparse.Namespace) -> None:
    build(args, args.corpus, args.out)


def build(args: argparse.Namespace, corpus: str, out: str) -> "Searcher":
    """Build the index `out` of the file `corpus` and say how long it took."""
    require_file(corpus)
    from colbertz.searcher import Searcher

    started = time.perf_counter()
    searcher = Searcher.build(
        out,
        load_model(args),
        read_documents(corpus),
        nbits=args.nbits,
        seed=args.seed,
        location=args.model,
        pool_factor=args.pool_factor,
        batch_tokens=args.batch_tokens,
        overwrite=args.overwrite,
        index_device=args.index_device,
    )
    index, seconds = searcher.index, time.perf_counter() - started
    size = index.manifest.size / 1e6
    print(f"indexed {len(index):,} documents ({index.num_tokens:,} tokens, {size:,.1f} MB) in {seconds:.1f} s: {out}")
    return searcher

"""`colbertz index`: encode a corpus and write an index of it."""

import argparse
import itertools
import time

from colbertz.cli.options import add_encoding_arguments, add_model_arguments, load_model
from colbertz.inputs import read_corpus, require_file

HELP = "encode a corpus and write a searchable index"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, required=True)
    parser.add_argument(
        "--corpus",
        required=True,
        metavar="FILE",
        help="JSON lines with _id, text and perhaps title; other fields are kept as metadata; .gz too; - for stdin",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the index to write")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the index at --out once the new one is complete"
    )
    add_encoding_arguments(parser)


def run(args: argparse.Namespace) -> None:
    require_file(args.corpus)
    from colbertz.searcher import Searcher

    started = time.perf_counter()
    ids, texts, metadata = itertools.tee(read_corpus(args.corpus), 3)
    searcher = Searcher.build(
        args.out,
        load_model(args),
        (row.text for row in texts),
        ids=(row.id for row in ids),
        metadata=(row.metadata for row in metadata),
        location=args.model,
        pool_factor=args.pool_factor,
        batch_tokens=args.batch_tokens,
        overwrite=args.overwrite,
    )
    index, seconds = searcher.index, time.perf_counter() - started
    print(f"indexed {len(index):,} documents ({index.num_tokens:,} tokens) in {seconds:.1f} s: {args.out}")

"""`colbertz index`: encode a corpus and write an index of it."""

import argparse
import time
from typing import TYPE_CHECKING

from colbertz.cli.options import add_encoding_arguments, add_model_arguments, load_model, seed
from colbertz.corpus.documents import read_documents
from colbertz.corpus.formats import NAMES, num_rows
from colbertz.corpus.lines import require_file
from colbertz.corpus.rows import BadTexts, refuse
from colbertz.text.counted import counted

if TYPE_CHECKING:
    from colbertz.searcher import Searcher

HELP = "encode a corpus and write a searchable index"
EXAMPLES = """\
  colbertz index --corpus corpus.jsonl --out my-index
  colbertz index --corpus corpus.parquet --out my-index --model lightonai/ColBERT-Zero --nbits 2
  colbertz index --corpus corpus.jsonl --out my-index --codec opq --bytes 16
"""
CORPUS_HELP = (
    f"{NAMES} with _id (or id), text and perhaps title; other columns are kept as metadata; text files may be .gz; "
    "- for JSON lines from stdin"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", required=True, metavar="FILE", help=CORPUS_HELP)
    parser.add_argument("--out", required=True, metavar="DIR", help="directory of the index to write")
    add_model_arguments(parser)
    add_build_arguments(parser.add_argument_group("index"))
    add_encoding_arguments(parser)


def add_build_arguments(parser: "argparse._ArgumentGroup") -> None:
    """Add the options of building an index; `colbertz search --build` has them too."""
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the index that is there once the new one is complete"
    )
    parser.add_argument(
        "--nbits",
        type=int,
        choices=(1, 2, 4, 8),
        help="bits for each dimension of an embedding (default: 4)",
    )
    parser.add_argument(
        "--codec",
        choices=("scalar", "pq", "opq"),
        default="scalar",
        help="how embeddings are coded: bits for each dimension, product quantisation, or this after a learned "
        "rotation (default: scalar)",
    )
    parser.add_argument(
        "--bytes",
        type=int,
        metavar="N",
        help="bytes for each token with pq and opq, besides its centroid (default: a quarter of the dimension)",
    )
    parser.add_argument(
        "--on-bad-text",
        choices=("error", "skip"),
        default="error",
        help="what to do with rows that have no usable text, such as rows that are not UTF-8: stop, or leave them out, "
        "count them and show the first (default: error)",
    )
    parser.add_argument("--seed", type=seed, default=42, metavar="N", help="seed of sampling and k-means (default: 42)")
    parser.add_argument(
        "--index-device", metavar="DEVICE", help="where to work on the index: cpu, cuda, cuda:1 … (default: cpu)"
    )


def run(args: argparse.Namespace) -> None:
    build(args, args.corpus, args.out)


def build(args: argparse.Namespace, corpus: str, out: str) -> "Searcher":
    """Build the index `out` of the file `corpus` and print how long it took."""
    require_file(corpus)
    from colbertz.models.dtypes import describe
    from colbertz.searcher import Searcher

    bad_texts = BadTexts(args.on_bad_text)
    started = time.perf_counter()
    searcher = Searcher.build(
        out,
        load_model(args),
        read_documents(corpus, bad_texts.add if args.on_bad_text == "skip" else refuse),
        nbits=args.nbits,
        codec=args.codec,
        bytes_per_token=args.bytes,
        seed=args.seed,
        location=args.model,
        pool_factor=args.pool_factor,
        batch_tokens=args.batch_tokens,
        overwrite=args.overwrite,
        index_device=args.index_device,
        num_documents=num_rows(corpus) or None,  # an empty file is refused when it is read
    )
    bad_texts.warn()
    index, seconds = searcher.index, time.perf_counter() - started
    megabytes = index.manifest.size / 1e6
    documents, tokens = counted(len(index), "document"), counted(index.num_tokens, "token")
    print(
        f"indexed {documents} ({tokens}, {megabytes:,.1f} MB) in {seconds:.1f} s,"
        f" encoded in {describe(searcher.model)}: {out}"
    )
    return searcher

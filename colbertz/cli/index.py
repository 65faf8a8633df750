"""`colbertz index`: bring the index of a folder up to date, or encode a corpus and write an index of it."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from colbertz.cli.options import (
    DEFAULT_MODEL,
    add_build_arguments,
    add_encoding_arguments,
    add_model_arguments,
    load_model,
)
from colbertz.cli.output import print_line
from colbertz.errors import UserError
from colbertz.text.counted import counted

if TYPE_CHECKING:
    from colbertz.searcher import Searcher

HELP = "bring the index of a folder up to date, or write an index of a corpus"
EXAMPLES = """\
  colbertz index
  colbertz index ~/project --exclude "*.csv"
  colbertz index --corpus corpus.jsonl --out my-index
  colbertz index corpus.jsonl report.pdf notes/ --out my-index --model lightonai/ColBERT-Zero --nbits 2
"""
INTERMIXED = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words", nargs="*", metavar="PATH", help="folders; with --out also files (default: the current folder)"
    )
    parser.add_argument(
        "--corpus",
        metavar="FILE",
        help=".jsonl, .ndjson, .csv, .tsv or .parquet with _id (or id), text and perhaps title; other columns are kept "
        "as metadata; text files may be .gz; - for JSON lines from stdin",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="write an index of the documents as they are now to this directory"
    )
    folder = parser.add_argument_group("which files of a folder its index has from now on")
    folder.add_argument("--index", metavar="DIR", help="directory of the folder's index (default: in the user's cache)")
    folder.add_argument(
        "--include", action="append", metavar="GLOB", help="only files that match, as in .gitignore; can be repeated"
    )
    folder.add_argument(
        "--exclude", action="append", metavar="GLOB", help="no file that matches, as in .gitignore; can be repeated"
    )
    folder.add_argument("--hidden", action="store_true", help="files and folders whose names begin with a dot too")
    folder.add_argument("--no-ignore", action="store_true", help="files that .gitignore and .ignore leave out too")
    add_model_arguments(parser)
    add_build_arguments(parser.add_argument_group("index"))
    add_encoding_arguments(parser)


def run(args: argparse.Namespace) -> None:
    if args.corpus is None and args.out is None:
        _update_folders(args)
        return
    if args.out is None:
        raise UserError(f"--corpus {args.corpus} needs --out, the directory of the index to write")
    if args.index is not None:
        raise UserError("--index is for the index of a folder, which is updated; --out is for a new index of documents")
    sources = ([] if args.corpus is None else [args.corpus]) + args.words
    build(args, sources or ["."], args.out)


def _update_folders(args: argparse.Namespace) -> None:
    from colbertz.cli.update_bar import update_bar
    from colbertz.corpus.folder.walk import WalkOptions
    from colbertz.folders.folder import Folder

    paths = args.words or ["."]
    if args.index is not None and len(paths) > 1:
        raise UserError(f"--index {args.index} is for one folder, got {len(paths)}")
    for path in paths:
        if Path(path).is_file():
            raise UserError(f"{path} is a file; give --out for an index of files, or name its folder")
        folder = Folder.open(path, args.index, None if args.model == DEFAULT_MODEL else args.model)
        options = WalkOptions(tuple(args.include or ()), tuple(args.exclude or ()), args.hidden, not args.no_ignore)
        started = time.perf_counter()
        with update_bar(folder.root) as bar:
            done = folder.update(bar, wait=None, options=None if options == WalkOptions() else options)
        status = folder.status()
        print_line(
            f"{path}: {counted(done.changed, 'changed file')}, {done.removed:,} removed,"
            f" {counted(done.encoded, 'chunk')} encoded in {time.perf_counter() - started:.1f} s;"
            f" {counted(status.files, 'file')}, {counted(status.chunks, 'chunk')}: {folder.home}"
        )


def build(args: argparse.Namespace, sources: Sequence[str], out: str) -> "Searcher":
    """Build the index `out` of files and folders and print how long it took."""
    from colbertz.corpus.formats import num_rows, suffix_of
    from colbertz.corpus.lines import require_file
    from colbertz.corpus.rows import BadTexts, refuse
    from colbertz.folders.sources import documents_of

    for source in sources:
        if not Path(source).is_dir():
            require_file(source)
    only_rows = all(suffix_of(source) and Path(source).is_file() for source in sources)
    from colbertz.models.dtypes import describe
    from colbertz.searcher import Searcher

    bad_texts = BadTexts(args.on_bad_text)
    started = time.perf_counter()
    searcher = Searcher.build(
        out,
        load_model(args),
        documents_of(sources, bad_texts.add if args.on_bad_text == "skip" else refuse),
        nbits=args.nbits,
        seed=args.seed,
        location=args.model,
        pool_factor=args.pool_factor,
        batch_tokens=args.batch_tokens,
        overwrite=args.overwrite,
        index_device=args.index_device,
        # An empty file is refused when it is read.
        num_documents=(sum(num_rows(source) or 0 for source in sources) or None) if only_rows else None,
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

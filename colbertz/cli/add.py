"""`colbertz add`: encode documents and add them to an index."""

import argparse
from pathlib import Path

from colbertz.cli.options import add_device_arguments, positive, torch_dtype
from colbertz.cli.output import print_line
from colbertz.errors import UserError
from colbertz.folders.places import is_folder_index
from colbertz.text.counted import counted

HELP = "add documents to an index"
EXAMPLES = """\
  colbertz add --index my-index more.jsonl
  colbertz add --index my-index corrected.csv --replace
  colbertz add --index my-index report.pdf notes/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="files and folders, as for `colbertz index`")
    parser.add_argument("--index", required=True, metavar="DIR", help="index to add them to")
    parser.add_argument("--replace", action="store_true", help="replace documents whose ids the index has already")
    parser.add_argument(
        "--on-bad-text", choices=("error", "skip"), default="error", help="as for `index` (default: error)"
    )
    parser.add_argument("--model", metavar="MODEL", help="checkpoint directory or hub id (default: the index's)")
    parser.add_argument(
        "--pool-factor", type=positive, default=1, metavar="N", help="as the index was built with (default: 1)"
    )
    add_device_arguments(parser.add_argument_group("model"), default_dtype="as for the index")


def run(args: argparse.Namespace) -> None:
    refuse_folder_index(args.index, "add the file to its folder")
    from colbertz.corpus.rows import BadTexts, refuse
    from colbertz.folders.sources import documents_of
    from colbertz.searcher import Searcher

    bad_texts = BadTexts(args.on_bad_text)
    documents = list(documents_of(args.sources, bad_texts.add if args.on_bad_text == "skip" else refuse))
    if not documents:
        raise UserError(f"there is no document in {', '.join(args.sources)}")
    searcher = Searcher.open(args.index, args.model, args.device, torch_dtype(args.dtype))
    before = len(searcher.index)
    searcher.add(
        [document.text or "" for document in documents],
        ids=[document.id for document in documents],
        metadata=[document.metadata for document in documents],
        on_duplicate="replace" if args.replace else "error",
        on_bad_text=args.on_bad_text,
        pool_factor=args.pool_factor,
    )
    bad_texts.warn()
    new = len(searcher.index) - before
    print_line(
        f"added {counted(new, 'document')}, replaced {counted(len(documents) - new, 'document')}: "
        f"{args.index} has {counted(len(searcher.index), 'document')}"
    )


def refuse_folder_index(index: str, instead: str) -> None:
    """Raise UserError for the index of a folder, which follows the folder's files."""
    if is_folder_index(Path(index)):
        raise UserError(f"{index} is the index of a folder and follows its files; {instead}")

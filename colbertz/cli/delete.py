"""`colbertz delete`: delete documents from an index, by their ids or by a condition on their metadata."""

import argparse

from colbertz.cli.add import refuse_folder_index
from colbertz.cli.output import print_line
from colbertz.errors import UserError
from colbertz.text.counted import counted

HELP = "delete documents from an index"
EXAMPLES = """\
  colbertz delete --index my-index doc3 doc17
  colbertz delete --index my-index --where "year < 1990"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", help="ids of documents")
    parser.add_argument("--index", required=True, metavar="DIR", help="index to delete them from")
    parser.add_argument("--where", metavar="SQL", help="all documents whose metadata meet it, as for `colbertz search`")
    parser.add_argument("--dry-run", action="store_true", help="print how many it would delete, and delete none")


def run(args: argparse.Namespace) -> int:
    """Delete, and return 1 if no document was meant."""
    if bool(args.ids) == (args.where is not None):
        raise UserError("name the documents to delete either by their ids or by --where")
    refuse_folder_index(args.index, "delete the file, or exclude it with `colbertz index --exclude`")
    from colbertz.index import Index

    index = Index.open(args.index)
    ids = list(dict.fromkeys(args.ids)) if args.ids else index.ids(args.where)
    if args.dry_run:
        index.get(ids)  # raises for an unknown id
        print_line(f"would delete {counted(len(ids), 'document')} of {len(index):,}")
    else:
        deleted = index.delete(ids)
        print_line(f"deleted {counted(deleted, 'document')}: {args.index} has {counted(len(index), 'document')}")
    return 0 if ids else 1

"""`colbertz list`: the documents of an index, one a line."""

import argparse

from colbertz.cli.add import refuse_folder_index
from colbertz.cli.output import as_json, as_text, field_names, print_line
from colbertz.text.printable import printable

HELP = "list the documents of an index"
EXAMPLES = """\
  colbertz list --index my-index
  colbertz list --index my-index --where "year > 2020" --fields year,title
  colbertz list --index my-index --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--index", required=True, metavar="DIR", help="an index")
    parser.add_argument("--where", metavar="SQL", help="only documents whose metadata meet it, as for `search`")
    parser.add_argument("--fields", metavar="NAMES", help="metadata fields to print after the id, as in year,lang")
    parser.add_argument(
        "--json",
        action="store_true",
        help="one JSON object a document: _id, text and metadata, as `index` reads it",
    )


def run(args: argparse.Namespace) -> int:
    """Print, and return 1 if there is no document."""
    refuse_folder_index(args.index, "`colbertz status` says what it has")
    from colbertz.index import Index

    index = Index.open(args.index)
    names = field_names(args.fields)
    ids = index.ids(args.where)
    for first in range(0, len(ids), 1000):
        for document in index.get(ids[first : first + 1000]):
            if args.json:
                print_line(as_json({**document.metadata, "_id": document.id, "text": document.text}))
            else:
                values = [as_text(document.metadata.get(name)) for name in names]
                print_line("\t".join(printable(value) for value in (document.id, *values)))
    return 0 if ids else 1

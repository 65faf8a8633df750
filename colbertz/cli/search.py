"""`colbertz search`: search a folder, or with `--index` an index of documents.

Only what parses the command line is imported here: the search of a folder can be answered by the background process,
and is then over in a tenth of a second.
"""

import argparse
from pathlib import Path

from colbertz.cli.options import add_build_arguments, add_encoding_arguments, add_model_arguments, positive
from colbertz.errors import UserError

HELP = "search a folder, or an index"
EXAMPLES = """\
  colbertz search "where do we retry failed requests"
  colbertz search "parse a date string" src docs -k 5 --code
  colbertz search --index my-index "parse a date string"
  colbertz search --index my-index --where "year > 2020 and lang = 'en'" --hybrid "late interaction"
  colbertz search --index my-index --queries queries.jsonl --run answers.trec -k 100
  colbertz search --index my-index --build corpus.jsonl "parse a date string"
"""
INTERMIXED = True
# Options that only one of the two has: its attribute, and its name.
_OF_FOLDERS = {
    "include": "--include", "exclude": "--exclude", "code": "--code", "docs": "--docs", "regex": "--regex",
    "per_file": "--per-file", "lines": "-n", "files_only": "-l", "content": "-c", "after": "-A", "before": "-B",
    "no_update": "--no-update",
}  # fmt: skip
_OF_INDEXES = {
    "where": "--where", "subset": "--subset", "exact": "--exact", "n_ivf_probe": "--n-ivf-probe",
    "n_full_scores": "--n-full-scores", "explain": "--explain", "html": "--html", "queries": "--queries",
    "run": "--run", "build": "--build", "fields": "--fields", "device": "--device", "dtype": "--dtype",
    "backend": "--backend", "index_device": "--index-device",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="*",
        metavar="QUERY [PATH]",
        help="what to search for, and the folders or files to search in; with --index of an index of documents, all "
        "words are the query (default: each line of stdin, or ask at a prompt; in the current folder)",
    )
    parser.add_argument(
        "-e",
        "--query",
        action="append",
        metavar="QUERY",
        help="a query; can be repeated, and all words are PATHs then",
    )
    parser.add_argument(
        "--index",
        metavar="DIR",
        help="index of `colbertz index`, fast-plaid, next-plaid or Stanford; with PATH also that of a folder "
        "(default: in the cache of the user, or in .colbertz of the folder if there is one)",
    )
    parser.add_argument("-k", type=positive, default=10, metavar="N", help="hits of a query (default: 10)")
    add_folder_arguments(parser.add_argument_group("searching a folder"))
    _add_search_arguments(parser)
    output = parser.add_argument_group("output")
    add_printing_arguments(output)
    _add_output_arguments(output)
    add_model_arguments(parser, default="the index's", as_index=True)

    building = parser.add_argument_group("building an index of documents first")
    building.add_argument("--build", metavar="CORPUS", help="a file as for `colbertz index --corpus`")
    add_build_arguments(building)
    add_encoding_arguments(parser)


def add_folder_arguments(group: "argparse._ArgumentGroup") -> None:
    """Add the options of searching a folder, which `related` has too."""
    group.add_argument("--code", action="store_true", help="only code and tests")
    group.add_argument("--docs", action="store_true", help="only documentation and data")
    group.add_argument(
        "--include", action="append", metavar="GLOB", help="only files that match, as in .gitignore; can be repeated"
    )
    group.add_argument(
        "--exclude", action="append", metavar="GLOB", help="no file that matches, as in .gitignore; can be repeated"
    )
    group.add_argument("--regex", metavar="RE", help="only parts of files with a line that this matches")
    group.add_argument("--per-file", type=_count, metavar="N", help="hits of one file; 0 for all (default: 3)")
    group.add_argument("-l", "--files-only", action="store_true", help="print the names of files only")
    group.add_argument("-c", "--content", action="store_true", help="print the whole function or section of a hit")
    group.add_argument("-n", "--lines", type=positive, metavar="N", help="lines of a passage (default: 4)")
    group.add_argument("-A", "--after", type=_count, metavar="N", help="lines of the file after the passage")
    group.add_argument("-B", "--before", type=_count, metavar="N", help="lines of the file before the passage")
    group.add_argument("--no-update", action="store_true", help="search the index as it is, do not look at the files")
    group.add_argument("--no-resident", action="store_true", help="do not use or start the background process")


def _count(text: str) -> int:
    """A whole number of at least 0, as the type of an option."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, got {text}")
    return int(text)


def _add_search_arguments(parser: argparse.ArgumentParser) -> None:
    filters = parser.add_argument_group("which documents of an index")
    filters.add_argument(
        "--where", metavar="SQL", help="only documents whose metadata meet it, as in \"year > 2020 and lang = 'en'\""
    )
    filters.add_argument("--subset", metavar="FILE", help="only documents whose ids are in FILE, one a line")
    filters.add_argument(
        "--hybrid", action="store_true", help="fuse with BM25 over the documents' texts; folders always do"
    )
    filters.add_argument(
        "--text-weight", type=float, metavar="W", help="weight of BM25, from 0 to 1 (default: 0.3 with --hybrid)"
    )

    effort = parser.add_argument_group("how thoroughly")
    effort.add_argument("--exact", action="store_true", help="score every document")
    effort.add_argument(
        "--n-ivf-probe", type=positive, metavar="N", help="cells probed for each query token (default: by -k)"
    )
    effort.add_argument(
        "--n-full-scores", type=positive, metavar="N", help="documents scored by their centroids (default: by -k)"
    )


def add_printing_arguments(group: "argparse._ArgumentGroup") -> None:
    """Add the options of how hits are printed, which `related` has too."""
    group.add_argument(
        "--json", action="store_true", help="JSON lines: of a folder one for each hit, of an index one for each query"
    )
    group.add_argument(
        "--color", choices=("auto", "always", "never"), default="auto", help="auto: on a terminal (default: auto)"
    )
    group.add_argument(
        "--links",
        choices=("none", "file", "vscode", "cursor", "idea"),
        default="file",
        help="what opens a hit of a folder on a click, in terminals that have links (default: file)",
    )


def _add_output_arguments(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--fields", metavar="NAMES", help="metadata fields to print of each document, as in year,lang")
    group.add_argument("--explain", action="store_true", help="show what each word of the query met")
    group.add_argument(
        "--html", metavar="FILE", help="with --explain: write heat-maps of the hits as a page for a browser"
    )
    group.add_argument(
        "--queries", metavar="FILE", help="with --run: rows with _id and text; .tsv has lines of id, tab, text"
    )
    group.add_argument("--run", metavar="FILE", help="write the answers to --queries as a TREC run")


def run(args: argparse.Namespace) -> int:
    """Answer, and return 1 if no query found anything, as grep does."""
    if _is_of_folder(args):
        _refuse(args, _OF_INDEXES, "is for an index of documents; name it with --index")
        from colbertz.cli import search_folder

        return search_folder.run(args)
    _refuse(args, _OF_FOLDERS, "is for searching a folder, without --index")
    from colbertz.cli import search_index

    return search_index.run(args)


def _is_of_folder(args: argparse.Namespace) -> bool:
    """Whether a folder is searched, and not an index of documents."""
    from colbertz.folders.places import is_folder_index

    if args.index is None:
        return True
    if args.build is not None or Path(args.index).exists():
        return is_folder_index(Path(args.index))
    # A new index for folders that are named; otherwise the name of the index is misspelt.
    paths = args.words if args.query else args.words[1:]
    return bool(paths) and all(Path(path).exists() for path in paths)


def _refuse(args: argparse.Namespace, names: dict[str, str], why: str) -> None:
    """Raise UserError for an option that does not belong to this kind of search."""
    for attribute, name in names.items():
        if getattr(args, attribute) not in (None, False):
            raise UserError(f"{name} {why}")

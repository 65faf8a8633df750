"""`colbertz related FILE:LINE`: parts of a folder's files that are like the one at a line."""

import argparse
from dataclasses import replace
from pathlib import Path

from colbertz.cli.options import positive
from colbertz.cli.search import add_folder_arguments, add_printing_arguments
from colbertz.errors import UserError

HELP = "find what is like a function or section of a folder"
EXAMPLES = """\
  colbertz related src/dates.py:42
  colbertz related src/dates.py:42 --code -k 5 -l
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("place", metavar="FILE:LINE", help="a file and a line of the function or section")
    parser.add_argument("--index", metavar="DIR", help="directory of the folder's index (default: the usual place)")
    parser.add_argument("-k", type=positive, default=10, metavar="N", help="hits (default: 10)")
    add_folder_arguments(parser.add_argument_group("searching the folder"))
    add_printing_arguments(parser.add_argument_group("output"))


def run(args: argparse.Namespace) -> int:
    """Search, print, and return 1 if nothing was found."""
    from colbertz.cli.search_folder import ask, request_of, show, targets_of

    name, _, line = args.place.rpartition(":")
    if not name or not line.isdecimal():
        raise UserError(f"name a place as FILE:LINE, got {args.place!r}")
    # A file of the current folder is compared with all of that folder.
    folder = "." if Path(name).resolve().is_relative_to(Path.cwd()) else str(Path(name).parent)
    if not Path(name).is_file():
        raise FileNotFoundError(f"there is no file {name}")
    [target] = targets_of([folder], args.index)
    args.model = args.text_weight = None
    below = Path(name).resolve().relative_to(target.root).as_posix()
    request = replace(request_of(args, replace(target, paths=()), ()), related=f"{below}:{line}")
    answer = ask(request, args)
    show([answer], args)
    return 0 if answer.results[0].hits else 1

"""`colbertz clear`: remove the index of a folder; the folder stays as it is."""

import argparse
from pathlib import Path

from colbertz.cli.output import print_line

HELP = "remove the index of a folder"
EXAMPLES = """\
  colbertz clear
  colbertz clear ~/project
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", default=".", metavar="PATH", help="a folder (default: .)")
    parser.add_argument("--index", metavar="DIR", help="directory of its index (default: the usual place)")


def run(args: argparse.Namespace) -> int:
    """Remove it, and return 1 if there was none."""
    from colbertz.folders.folder import Folder

    folder = Folder.open(Path(args.path), args.index)
    cleared = folder.clear()
    print_line(f"removed the index {folder.home}" if cleared else f"{folder.root} has no index of its own")
    return 0 if cleared else 1

"""`colbertz status`: what the index of a folder holds, and whether there is one."""

import argparse
import time
from dataclasses import asdict

from colbertz.cli.output import as_json, print_line
from colbertz.text.counted import counted

HELP = "what the index of a folder holds"
EXAMPLES = """\
  colbertz status
  colbertz status ~/project --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", default=".", metavar="PATH", help="a folder (default: .)")
    parser.add_argument("--index", metavar="DIR", help="directory of its index (default: the usual place)")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print, and return 1 if there is no index."""
    from colbertz.cli.search_folder import targets_of
    from colbertz.folders.folder import Folder

    [target] = targets_of([args.path], args.index)
    status = Folder.open(target.root, args.index).status()
    if args.json:
        print_line(as_json(asdict(status)))
    elif not status.exists:
        print_line(f"{status.root} has no index; `colbertz index {args.path}` builds one in {status.index}")
    else:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status.updated))
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in status.kinds.items())
        skipped = ", ".join(f"{count:,} {reason}" for reason, count in sorted(status.skipped.items()))
        print_line(f"folder    {status.root}")
        print_line(f"index     {status.index} ({status.bytes / 1e6:,.1f} MB)")
        print_line(f"model     {status.model}")
        print_line(f"files     {status.files:,}; not read: {skipped or 'none'}")
        print_line(f"chunks    {status.chunks:,}: {kinds}")
        print_line(f"pending   {counted(status.pending, 'chunk')} to encode; {counted(status.kept, 'old chunk')} kept")
        print_line(f"updated   {'never' if status.updated is None else moment}")
    return 0 if status.exists else 1

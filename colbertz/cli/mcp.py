"""`colbertz mcp`: serve searches of folders to an agent over stdin and stdout."""

import argparse
from pathlib import Path

from colbertz.errors import UserError

HELP = "let agents search folders (Model Context Protocol)"
EXAMPLES = """\
  colbertz mcp
  colbertz mcp ~/work/project ~/notes
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders",
        nargs="*",
        metavar="FOLDER",
        help="what may be searched and read, beside the roots that the agent names (default: the current folder)",
    )


def run(args: argparse.Namespace) -> None:
    """Serve until stdin ends."""
    for folder in args.folders:
        if not Path(folder).is_dir():
            raise UserError(f"there is no folder {folder}")
    from colbertz.resident.client import wake

    wake()
    from colbertz.integrations.mcp import make_server

    make_server(args.folders).run("stdio")

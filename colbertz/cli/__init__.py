"""The `colbertz` command.

Each subcommand is a module of this package with HELP (one line), EXAMPLES (command lines for the end of its help),
`add_arguments(parser)` and `run(args)`, which returns an exit status or None for 0. It parses, calls the library and
prints. One with INTERMIXED takes its `words` after options too. Subcommands import torch and the rest when they run, so
help and mistyped options answer at once.

A `UserError` (the user did something wrong) and an `OSError` (no such file, a full disk) become one line on stderr and
exit status 2. Every other exception is a bug and shows its traceback.
"""

import argparse
import gc
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from types import ModuleType

from colbertz import __version__
from colbertz.cli.output import print_in_any_encoding
from colbertz.errors import UserError
from colbertz.text.printable import printable

# Subcommands and their modules, in the order of the help. A new subcommand is one file and one line here.
SUBCOMMANDS = {
    "train": "train",
    "encode": "encode",
    "index": "index",
    "search": "search",
    "related": "related",
    "status": "status",
    "clear": "clear",
    "add": "add",
    "delete": "delete",
    "list": "list_documents",
    "mcp": "mcp",
    "install-agent": "install_agent",
    "resident": "resident",
    "serve": "serve",
    "compact": "compact",
    "check": "check",
    "convert": "convert",
    "export": "export",
    "export-vectors": "export_vectors",
    "mine": "mine",
    "score": "score",
    "eval": "evaluate",
    "info": "info",
    "mini": "mini",
    "nano": "nano",
    "demo": "demo",
}
# New objects between two collections of garbage. Importing PyTorch makes half a million that stay: with Python's 700,
# looking through them takes a tenth of the time of the import.
_GC_THRESHOLD = 100_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (None: this process's) and return its exit status."""
    gc.set_threshold(_GC_THRESHOLD)
    print_in_any_encoding()
    args = parse(sys.argv[1:] if argv is None else argv)
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)  # some libraries, such as bm25s, set their own loggers to DEBUG
    logging.basicConfig(format="%(message)s", handlers=[handler])
    try:
        return module_of(args.subcommand).run(args) or 0
    except BrokenPipeError:
        # The reader has closed the pipe, as in `colbertz search … | head`. Python flushes stdout at exit, which would
        # fail again and print a second error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UserError, OSError) as error:
        print(f"error: {printable(' '.join(str(error).splitlines()))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        # On a terminal the cursor is after ^C, in a line that a bar or a prompt has begun: leave that line as it is.
        print("\ninterrupted" if sys.stderr.isatty() else "interrupted", file=sys.stderr)
        return 130


def module_of(subcommand: str) -> ModuleType:
    """The module of a subcommand."""
    return import_module(f"colbertz.cli.{SUBCOMMANDS[subcommand]}")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; `subcommand` is the name of the subcommand.

    Raises:
        SystemExit: after `--help` (status 0), and for arguments that no parser knows (status 2).
    """
    argv = list(argv)
    # The other subcommands need not be imported to parse one of them.
    parser = build_parser(argv[:1] if argv[:1] and argv[0] in SUBCOMMANDS else SUBCOMMANDS)
    args, unknown = parser.parse_known_args(argv)
    if hasattr(module_of(args.subcommand), "INTERMIXED"):
        # argparse takes the words before the first option only.
        args.words += [word for word in unknown if not word.startswith("-")]
        unknown = [word for word in unknown if word.startswith("-")]
    if hasattr(module_of(args.subcommand), "FORWARDS"):
        args.forwarded = argv[argv.index(args.subcommand) + 1 :]
    elif unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


def build_parser(names: Iterable[str] = SUBCOMMANDS) -> argparse.ArgumentParser:
    """The parser of the subcommands with these names. One with FORWARDS parses its own arguments, `--help` too."""
    parser = argparse.ArgumentParser(
        prog="colbertz", description="Late-interaction retrieval: train, encode, index, search."
    )
    parser.add_argument("--version", action="version", version=f"colbertz {__version__}")
    subparsers = parser.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)
    for name in names:
        module = module_of(name)
        subparser = subparsers.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            epilog=f"examples:\n{module.EXAMPLES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=not hasattr(module, "FORWARDS"),
            allow_abbrev=False,
        )
        module.add_arguments(subparser)
    return parser
